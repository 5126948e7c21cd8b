//! From the one URL that users give (`https://github.com/acme`) to scope and REST base.

use url::Url;

use super::{ConfigUrl, Scope};

/// The URL would send credentials in the clear.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{scheme}://{host} refused: https is required, http is for loopback addresses only")]
pub struct InsecureUrl {
    scheme: String,
    host: String,
}

/// https, or http to a loopback address (B23).
pub fn check_url(url: &Url) -> Result<(), InsecureUrl> {
    let loopback = match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    };
    if (url.scheme() == "https" && url.has_host()) || (url.scheme() == "http" && loopback) {
        return Ok(());
    }
    Err(InsecureUrl {
        scheme: url.scheme().to_owned(),
        host: url.host_str().unwrap_or_default().to_owned(),
    })
}

impl ConfigUrl {
    /// Parses `text`. `force_ghes` treats every host as a GitHub Enterprise Server, as
    /// `GITHUB_ACTIONS_FORCE_GHES` does for GitHub's own clients. The error says what is wrong with it.
    pub fn parse(text: &str, force_ghes: bool) -> Result<Self, String> {
        let mut url = Url::parse(text.trim()).map_err(|e| format!("not a URL ({e})"))?;
        check_url(&url).map_err(|_| "must use https (plain http only to loopback)".to_owned())?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err("credentials do not belong into this URL".to_owned());
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("query and fragment are not allowed".to_owned());
        }
        let scope = scope(url.path())?;
        url.set_path(&match &scope {
            Scope::Organization { org } => org.clone(),
            Scope::Repository { owner, repo } => format!("{owner}/{repo}"),
            Scope::Enterprise { enterprise } => format!("enterprises/{enterprise}"),
        });
        let rest_base = rest_base(&url, force_ghes)?;
        Ok(Self { url, rest_base, scope })
    }
}

fn scope(path: &str) -> Result<Scope, String> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let is_name = |part: &&str| {
        part.bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    if let Some(bad) = parts.iter().find(|part| !is_name(part)) {
        return Err(format!("{bad:?} is no name that GitHub gives"));
    }
    match parts.as_slice() {
        ["enterprises"] => Err("the enterprise's name is missing".to_owned()),
        ["enterprises", name] => Ok(Scope::Enterprise {
            enterprise: (*name).to_owned(),
        }),
        [org] => Ok(Scope::Organization { org: (*org).to_owned() }),
        [owner, repo] => Ok(Scope::Repository {
            owner: (*owner).to_owned(),
            repo: (*repo).to_owned(),
        }),
        _ => Err("must name an organization, a repository or an enterprise".to_owned()),
    }
}

fn rest_base(url: &Url, force_ghes: bool) -> Result<Url, String> {
    let host = url.host_str().unwrap_or_default();
    let port = url.port().map_or_else(String::new, |p| format!(":{p}"));
    let hosted = !force_ghes;
    let base = match host {
        "github.com" | "www.github.com" if hosted => "https://api.github.com".to_owned(),
        _ if hosted && (host == "github.localhost" || host.ends_with(".ghe.com")) => {
            format!("{}://api.{host}{port}", url.scheme())
        }
        _ => format!("{}://{host}{port}/api/v3", url.scheme()),
    };
    Url::parse(&base).map_err(|e| format!("no REST address for host {host} ({e})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b23_http_is_for_loopback_only() {
        let ok = |text: &str| check_url(&Url::parse(text).unwrap()).is_ok();
        for good in [
            "https://a.example",
            "http://127.0.0.1:1",
            "http://[::1]/x",
            "http://localhost",
            "http://a.localhost",
        ] {
            assert!(ok(good), "{good}");
        }
        for bad in [
            "http://a.example",
            "http://10.0.0.1",
            "ftp://localhost",
            "http://localhost.example",
            "file:///x",
        ] {
            assert!(!ok(bad), "{bad}");
        }
    }

    fn rest(text: &str) -> String {
        ConfigUrl::parse(text, false).unwrap().rest_base.to_string()
    }

    #[test]
    fn every_kind_of_host_has_its_rest_base() {
        assert_eq!(rest("https://github.com/acme"), "https://api.github.com/");
        assert_eq!(rest("https://www.github.com/acme"), "https://api.github.com/");
        assert_eq!(rest("https://acme.ghe.com/acme"), "https://api.acme.ghe.com/");
        assert_eq!(
            rest("http://github.localhost:3000/acme"),
            "http://api.github.localhost:3000/"
        );
        assert_eq!(
            rest("https://ghes.example:8443/acme"),
            "https://ghes.example:8443/api/v3"
        );
        assert_eq!(rest("http://127.0.0.1:9000/acme"), "http://127.0.0.1:9000/api/v3");
        assert_eq!(rest("https://notghe.com/acme"), "https://notghe.com/api/v3");
        let forced = ConfigUrl::parse("https://github.com/acme", true).unwrap();
        assert_eq!(forced.rest_base.as_str(), "https://github.com/api/v3");
    }

    #[test]
    fn depth_decides_the_scope_and_slashes_do_not_matter() {
        let parse = |text| ConfigUrl::parse(text, false).unwrap();
        let org = parse("https://github.com//acme/");
        assert_eq!(org.scope, Scope::Organization { org: "acme".into() });
        assert_eq!(org.url.as_str(), "https://github.com/acme");
        assert_eq!(
            parse("https://github.com/acme/app.js/").scope,
            Scope::Repository {
                owner: "acme".into(),
                repo: "app.js".into()
            }
        );
        assert_eq!(
            parse("https://github.com/enterprises/big-co").scope,
            Scope::Enterprise {
                enterprise: "big-co".into()
            }
        );
    }

    #[test]
    fn b38_what_cannot_be_is_refused_with_what_is_wrong() {
        for (bad, why) in [
            ("acme", "not a URL"),
            ("https://github.com", "must name"),
            ("https://github.com/enterprises", "name is missing"),
            ("https://github.com/a/b/c", "must name"),
            ("https://github.com/a?b=c", "query"),
            ("https://joe:pw@github.com/a", "credentials"),
            ("https://github.com/a%20b", "no name that GitHub gives"),
        ] {
            let error = ConfigUrl::parse(bad, false).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
        assert!(
            ConfigUrl::parse("http://github.com/acme", false)
                .unwrap_err()
                .contains("loopback")
        );
    }
}
