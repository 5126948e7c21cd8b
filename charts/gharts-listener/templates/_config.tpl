{{- /*
The daemon's file as a mapping, printed as JSON: `config`, over what the first design's names (`gharts`, `githubApp`)
say, over what the chart knows better than a person: paths and its own service account.
*/}}
{{- define "gharts-listener.config" -}}
{{- $config := mergeOverwrite (include "gharts-listener.seed" . | fromJson) (deepCopy .Values.config) }}
{{- $github := get $config "github" | default dict }}
{{- $gharts := get $config "gharts" | default dict }}
{{- $_ := required "config.github.configUrl: where do the jobs come from? https://github.com/ORGANIZATION, say" $github.configUrl }}
{{- $_ := required "config.scaleSets: name at least one scale set" $config.scaleSets }}

{{- $key := include "gharts-listener.credential" (dict "root" . "name" "githubAppKey") }}
{{- $token := include "gharts-listener.credential" (dict "root" . "name" "githubToken") }}
{{- $clientSecret := include "gharts-listener.credential" (dict "root" . "name" "ghartsClientSecret") }}
{{- $ca := include "gharts-listener.credential" (dict "root" . "name" "ca") }}

{{- $auth := get $github "auth" | default dict }}
{{- if and $key $auth.app (not (get $auth.app "privateKeyEnv")) }}
{{- $auth = merge $auth (dict "app" (dict "privateKeyFile" $key)) }}
{{- end }}
{{- if and $token (not $auth.app) (not (hasKey $auth "gharts")) (not (dig "pat" "tokenEnv" "" $auth)) }}
{{- $auth = merge $auth (dict "pat" (dict "tokenFile" $token)) }}
{{- end }}
{{- if not $auth }}
{{- fail "config.github.auth: who are we for GitHub? app (with credentials.githubAppKey), credentials.githubToken, or gharts: {}" }}
{{- end }}
{{- $_ := set $github "auth" $auth }}

{{- if $gharts }}
{{- $oidc := get $gharts "oidc" | default dict }}
{{- if eq (get $oidc "provider" | default "") "kubernetes" }}
{{- $oidc = merge $oidc (dict "serviceAccount" (include "gharts-listener.serviceAccount" .) "namespace" .Release.Namespace) }}
{{- end }}
{{- if and (eq (get $oidc "provider" | default "") "file") .Values.projectedToken.audience }}
{{- $oidc = merge $oidc (dict "tokenFile" (include "gharts-listener.projectedTokenFile" .)) }}
{{- end }}
{{- if and $clientSecret $oidc.external (not (get $oidc.external "clientSecretEnv")) }}
{{- $oidc = merge $oidc (dict "external" (dict "clientSecretFile" $clientSecret)) }}
{{- end }}
{{- $_ := set $gharts "oidc" $oidc }}
{{- if $ca }}{{ $_ := set $gharts "tls" (merge (get $gharts "tls" | default dict) (dict "caFile" $ca)) }}{{ end }}
{{- $_ := set $config "gharts" $gharts }}
{{- end }}
{{- if $ca }}{{ $_ := set $github "tls" (merge (get $github "tls" | default dict) (dict "caFile" $ca)) }}{{ end }}
{{- $_ := set $config "github" $github }}
{{- /* Replicas of one release lead by one Lease, and nobody else's. */}}
{{- $_ := set $config "lease" (merge (get $config "lease" | default dict) (dict "name" (include "gharts-listener.fullname" .) "namespace" .Release.Namespace)) }}
{{- $config | toJson }}
{{- end }}

{{- /* What the first design's names say, in the file's words. Numbers of Helm are floating: 123456 must not become 1.23456e+05. */}}
{{- define "gharts-listener.seed" -}}
{{- $out := dict }}
{{- $gharts := .Values.gharts }}
{{- $app := .Values.githubApp }}
{{- $ghartsOn := and $gharts (ne (toString (get $gharts "enabled")) "false") }}
{{- $appOn := and $app (ne (toString (get $app "enabled")) "false") }}
{{- if $ghartsOn }}
{{- $oidc := dict }}
{{- range $theirs, $ours := dict "provider" "provider" "audience" "audience" "serviceAccount" "serviceAccount" "tokenExpiration" "tokenExpiration" }}
{{- with dig "oidc" $theirs "" $gharts }}{{ $_ := set $oidc $ours . }}{{ end }}
{{- end }}
{{- if ne (get $oidc "provider" | default "kubernetes") "kubernetes" }}
{{- $oidc = omit $oidc "serviceAccount" "tokenExpiration" }}
{{- $external := dict }}
{{- range $theirs, $ours := dict "clientID" "clientId" "tokenURL" "tokenUrl" "scope" "scope" }}
{{- with dig "oidc" "external" $theirs "" $gharts }}{{ $_ := set $external $ours . }}{{ end }}
{{- end }}
{{- if $external }}{{ $_ := set $oidc "external" $external }}{{ end }}
{{- end }}
{{- $_ := set $oidc "provider" (get $oidc "provider" | default "kubernetes") }}
{{- $_ := set $out "gharts" (dict "baseUrl" (get $gharts "baseURL") "oidc" $oidc) }}
{{- with get $gharts "team" }}{{ $_ := set $out.gharts "team" . }}{{ end }}
{{- end }}
{{- if $appOn }}
{{- $id := get $app "appID" }}
{{- if not (kindIs "string" $id) }}{{ $id = $id | int64 | toString }}{{ end }}
{{- $_ := set $out "github" (dict "auth" (dict "app" (dict "clientId" $id "installationId" (get $app "installationID" | int64)))) }}
{{- else if and $ghartsOn $app (not (dig "github" "auth" "" .Values.config)) (not .Values.credentials.githubToken.secretName) }}
{{- /* The App is switched off and nothing else is said: access to the queue is GHARTS' to give. */}}
{{- $_ := set $out "github" (dict "auth" (dict "gharts" (dict))) }}
{{- end }}
{{- $out | toJson }}
{{- end }}

{{- define "gharts-listener.credentialsFolder" -}}
/etc/gharts-listener/credentials
{{- end }}

{{- define "gharts-listener.projectedTokenFile" -}}
/var/run/secrets/gharts-listener/token
{{- end }}

{{- /* The first design's values that are secrets: name of the credential and text, as JSON. */}}
{{- define "gharts-listener.inline" -}}
{{- $out := dict }}
{{- with get .Values.githubApp "privateKey" }}{{ $_ := set $out "githubAppKey" . }}{{ end }}
{{- with dig "oidc" "external" "clientSecret" "" .Values.gharts }}{{ $_ := set $out "ghartsClientSecret" . }}{{ end }}
{{- range $name, $_ := $out }}
{{- if (get $.Values.credentials $name).secretName }}
{{- fail (printf "credentials.%s names a Secret, and the values hold the secret itself: keep the former" $name) }}
{{- end }}
{{- end }}
{{- $out | toJson }}
{{- end }}

{{- /* The path of a credential's file, or nothing. */}}
{{- define "gharts-listener.credential" -}}
{{- $entry := get .root.Values.credentials .name | default dict }}
{{- $inline := include "gharts-listener.inline" .root | fromJson }}
{{- if or (get $entry "secretName") (get $entry "configMapName") (hasKey $inline .name) }}
{{- printf "%s/%s" (include "gharts-listener.credentialsFolder" .root) .name }}
{{- end }}
{{- end }}

{{- /* Sources of the projected volume with all credentials, as a JSON list. */}}
{{- define "gharts-listener.credentialSources" -}}
{{- $sources := list }}
{{- range $name, $entry := .Values.credentials }}
{{- if get $entry "secretName" }}
{{- $sources = append $sources (dict "secret" (dict "name" $entry.secretName "items" (list (dict "key" $entry.key "path" $name)))) }}
{{- else if get $entry "configMapName" }}
{{- $sources = append $sources (dict "configMap" (dict "name" $entry.configMapName "items" (list (dict "key" $entry.key "path" $name)))) }}
{{- end }}
{{- end }}
{{- $inline := include "gharts-listener.inline" . | fromJson }}
{{- if $inline }}
{{- $items := list }}
{{- range $name, $_ := $inline }}{{ $items = append $items (dict "key" $name "path" $name) }}{{ end }}
{{- $sources = append $sources (dict "secret" (dict "name" (printf "%s-credentials" (include "gharts-listener.fullname" .)) "items" $items)) }}
{{- end }}
{{- $sources | toJson }}
{{- end }}
