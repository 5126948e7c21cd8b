use super::*;

fn imported(text: &str) -> Imported {
    translate::import(documents(text).unwrap(), "runners").unwrap()
}

fn shown(text: &str) -> String {
    let imported = imported(text);
    format!("{}---\n{}", yaml(&imported).unwrap(), report(&imported))
}

/// Loads as a file of ours, but for the secrets that a person must still put there.
fn loads(text: &str) {
    let imported = imported(text);
    let text = yaml(&imported).unwrap();
    let Err(problems) = crate::config::parse(&text, &crate::config::Environment::new()) else {
        return;
    };
    let missing = |p: &crate::config::Problem| p.message.starts_with("cannot read /etc/gharts-listener");
    assert!(problems.iter().all(missing), "{problems:#?}\n{text}");
}

/// All that the scale set's chart documents, each set to something.
const EVERYTHING: &str = include_str!("scale_set_values.yaml");
/// The same of the controller's chart.
const CONTROLLER: &str = include_str!("controller_values.yaml");
/// What `kubectl get autoscalingrunnersets -o yaml` prints.
const LIVE: &str = include_str!("live.yaml");

#[test]
fn b54_every_value_of_the_scale_sets_chart_becomes_a_setting_or_is_listed() {
    insta::assert_snapshot!(shown(EVERYTHING));
    loads(EVERYTHING);
}

#[test]
fn b54_the_controllers_values_too() {
    let both = format!("{EVERYTHING}\n---\n{CONTROLLER}");
    insta::assert_snapshot!(shown(&both));
    loads(&both);
}

#[test]
fn b54_live_objects_become_a_file_with_a_set_each() {
    insta::assert_snapshot!(shown(LIVE));
    loads(LIVE);
}

#[test]
fn b54_the_experimental_charts_values_are_understood() {
    let text = "scaleset: { name: new, labels: [gpu], maxRunners: 4 }
auth: { url: https://github.com/acme, app: { clientId: Iv1.a, installationId: '7', privateKey: '-----BEGIN KEY-----' } }
runner: { mode: dind, env: [ { name: A, value: b } ], container: { image: mine } }
resource: { all: { metadata: { labels: { a: b } } } }";
    let imported = imported(text);
    let set = &imported.file["scaleSets"][0];
    assert_eq!((&set["name"], &set["containerMode"]), (&"new".into(), &"dind".into()));
    assert_eq!(set["template"]["spec"]["containers"][0]["image"], "mine");
    assert_eq!(imported.file["github"]["auth"]["app"]["installationId"], 7);
    assert_eq!(imported.dropped.len(), 1, "{:?}", imported.dropped);
    loads(text);
}

#[test]
fn b54_secrets_are_named_and_never_repeated() {
    let text = "githubConfigUrl: https://github.com/acme\ngithubConfigSecret: { github_token: ghp_very_secret }\nmaxRunners: 3";
    assert!(!shown(text).contains("very_secret"));
    let app = "githubConfigUrl: https://github.com/acme\ngithubConfigSecret: { github_app_id: '1', \
               github_app_installation_id: '2', github_app_private_key: very_secret }";
    assert!(!shown(app).contains("very_secret"));
}

/// Whatever is written somewhere in a document, it is taken or it is listed.
#[test]
fn b54_nothing_is_dropped_in_silence() {
    let plain: Value = documents(EVERYTHING).unwrap().remove(0);
    let mut paths = Vec::new();
    fn mappings(value: &Value, at: &str, out: &mut Vec<String>) {
        if let Value::Object(map) = value {
            out.push(at.to_owned());
            for (key, inner) in map {
                mappings(inner, &format!("{at}/{key}"), out);
            }
        }
    }
    mappings(&plain, "", &mut paths);
    assert!(paths.len() > 20);
    for path in paths {
        let mut document = plain.clone();
        let marked = document.pointer_mut(&path).unwrap().as_object_mut().unwrap();
        marked.insert("somethingNew".to_owned(), "marker".into());
        let imported = translate::import(vec![document], "runners").unwrap();
        let listed = imported.dropped.iter().any(|(path, _)| path.contains("somethingNew"));
        let kept = imported.file.to_string().contains("somethingNew");
        assert!(listed || kept, "{path}");
    }
}

#[test]
fn b54_what_is_something_else_is_refused() {
    for text in ["a: 1", "[1, 2]", "kind: Pod"] {
        assert!(
            translate::import(documents(text).unwrap(), "runners").is_err(),
            "{text}"
        );
    }
    let error = translate::import(documents(CONTROLLER).unwrap(), "runners").unwrap_err();
    assert!(error.contains("no scale set"), "{error}");
}
