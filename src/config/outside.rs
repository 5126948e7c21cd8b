//! The rules of the way out: certificates and proxies, for the listener and for its runners.

use std::path::PathBuf;

use url::Url;

use super::{
    CaSource, Proxy, RunnerCa, SecretRef, Tls,
    place::Place,
    raw::{RawProxy, RawRunnerCa, RawTls},
    secrets::{self, Shape},
    validate::{Pass, has_credentials},
};

/// Where Debian's `update-ca-certificates`, which the runner's image runs, looks.
const CA_FOLDER: &str = "/usr/local/share/ca-certificates";

impl Pass<'_> {
    /// Exactly one source, and where to put it.
    pub(super) fn runner_ca(&mut self, raw: &RawRunnerCa, place: &Place) -> Option<RunnerCa> {
        let source = match (&raw.config_map, &raw.secret) {
            (Some(name), None) => CaSource::ConfigMap(name.clone()),
            (None, Some(name)) => CaSource::Secret(name.clone()),
            _ => {
                self.refuse(
                    place,
                    "names no source, or two",
                    "give exactly one of configMap and secret, in the runner namespace",
                );
                return None;
            }
        };
        let mount_path = raw.mount_path.clone().unwrap_or_else(|| CA_FOLDER.to_owned());
        if !mount_path.starts_with('/') && !mount_path.contains(":\\") {
            self.refuse(
                &place.key("mountPath"),
                "is not an absolute path",
                format!("{CA_FOLDER} is the default"),
            );
        }
        Some(RunnerCa {
            source,
            key: raw.key.clone().unwrap_or_else(|| "ca.crt".to_owned()),
            mount_path,
        })
    }

    pub(super) fn tls(&mut self, raw: &RawTls, place: &Place) -> Tls {
        self.ca_file(raw.ca_file.as_ref(), place)
    }

    pub(super) fn ca_file(&mut self, path: Option<&PathBuf>, place: &Place) -> Tls {
        if let Some(path) = path {
            let reference = SecretRef::File(path.clone());
            if let Err((message, remedy)) = secrets::probe(&reference, Shape::Certificates, self.environment) {
                self.refuse(&place.key("caFile"), message, remedy);
            }
        }
        Tls { ca_file: path.cloned() }
    }

    pub(super) fn proxy(&mut self, raw: &RawProxy, place: &Place) -> Option<Proxy> {
        let mut one = |key: &str, text: Option<&String>| match text {
            None => Some(None),
            Some(text) => self.proxy_url(text, &place.key(key)).map(Some),
        };
        let (http, https) = (one("http", raw.http.as_ref()), one("https", raw.https.as_ref()));
        let credentials = self.proxy_credentials(raw, place);
        Some(Proxy {
            http: http?,
            https: https?,
            credentials,
            runners_secret: raw.runners_secret.clone(),
            no_proxy: raw.no_proxy.clone(),
        })
    }

    fn proxy_credentials(&mut self, raw: &RawProxy, place: &Place) -> Option<SecretRef> {
        let (file, variable) = (raw.credentials_file.as_ref(), raw.credentials_env.as_ref());
        let given = file.is_some() || variable.is_some();
        if (given || raw.runners_secret.is_some()) && raw.http.is_none() && raw.https.is_none() {
            self.refuse(place, "has credentials and no proxy", "give http, https or both");
        }
        if given && raw.runners_secret.is_none() {
            self.refuse(
                &place.key("runnersSecret"),
                "is required with credentials: the runners need them too, and they must not stand in pods",
                "make a Secret in the runner namespace with the keys http_proxy and https_proxy, whole URLs with \
                 credentials, and name it here",
            );
        }
        given.then(|| self.secret(place, "credentials", file, variable, Shape::UserAndPassword))?
    }

    fn proxy_url(&mut self, text: &str, place: &Place) -> Option<Url> {
        let url = Url::parse(text)
            .ok()
            .filter(|u| matches!(u.scheme(), "http" | "https") && u.has_host());
        let Some(url) = url else {
            self.refuse(
                place,
                "is not the URL of a proxy",
                "http://HOST:PORT or https://HOST:PORT",
            );
            return None;
        };
        if has_credentials(&url) {
            self.refuse(
                place,
                "must not hold credentials",
                "put user:password into a file and name it with credentialsFile",
            );
            return None;
        }
        Some(url)
    }
}
