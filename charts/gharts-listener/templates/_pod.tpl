{{- /* The daemon's pod, from its service account to its volumes: .root, .args; .daemon where it is the daemon itself, with
its port and probes. */}}
{{- define "gharts-listener.podSpec" -}}
{{- $root := .root -}}
{{- $args := .args -}}
{{- $daemon := .daemon -}}
{{- with .root -}}
{{- $sources := include "gharts-listener.credentialSources" . | fromJsonArray -}}
serviceAccountName: {{ include "gharts-listener.serviceAccount" . }}
automountServiceAccountToken: true
# Variables such as GHARTS_LISTENER_PORT are of no use here.
enableServiceLinks: false
terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.hostAliases }}
hostAliases:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.dnsPolicy }}
dnsPolicy: {{ . }}
{{- end }}
{{- with .Values.dnsConfig }}
dnsConfig:
  {{- toYaml . | nindent 2 }}
{{- end }}
containers:
  - name: gharts-listener
    image: {{ include "gharts-listener.image" . }}
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    args: {{ $args | toJson }}
    env:
      # For every command, also those of `kubectl exec`.
      - name: GHARTS_LISTENER_CONFIG
        value: /etc/gharts-listener/file/config.yaml
      {{- with .Values.extraEnv }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    {{- with .Values.extraEnvFrom }}
    envFrom:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- if $daemon }}
    ports:
      - name: http
        containerPort: {{ include "gharts-listener.port" . }}
    livenessProbe:
      httpGet: { path: /livez, port: http }
      {{- toYaml .Values.livenessProbe | nindent 6 }}
    readinessProbe:
      httpGet: { path: /readyz, port: http }
      {{- toYaml .Values.readinessProbe | nindent 6 }}
    {{- end }}
    resources:
      {{- toYaml .Values.resources | nindent 6 }}
    securityContext:
      {{- toYaml .Values.securityContext | nindent 6 }}
    volumeMounts:
      # Folders, never a subPath: only so does the kubelet bring changes into a running pod.
      - name: file
        mountPath: /etc/gharts-listener/file
        readOnly: true
      {{- if $sources }}
      - name: credentials
        mountPath: {{ include "gharts-listener.credentialsFolder" . }}
        readOnly: true
      {{- end }}
      {{- if .Values.projectedToken.audience }}
      - name: token
        mountPath: {{ include "gharts-listener.projectedTokenFile" . | dir }}
        readOnly: true
      {{- end }}
      {{- with .Values.extraVolumeMounts }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
  {{- if $daemon }}
  {{- with .Values.extraContainers }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- end }}
volumes:
  - name: file
    configMap:
      name: {{ include "gharts-listener.fullname" . }}
  {{- if $sources }}
  - name: credentials
    projected:
      defaultMode: 288 # 0440
      sources:
        {{- toYaml $sources | nindent 8 }}
  {{- end }}
  {{- with .Values.projectedToken }}
  {{- if .audience }}
  - name: token
    projected:
      defaultMode: 288 # 0440
      sources:
        - serviceAccountToken:
            path: {{ include "gharts-listener.projectedTokenFile" $root | base }}
            audience: {{ .audience | quote }}
            expirationSeconds: {{ .expirationSeconds | int64 }}
  {{- end }}
  {{- end }}
  {{- with .Values.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end }}
