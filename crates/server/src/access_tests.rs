//! Each route with each role.

use std::fs;

use batchwright::{Handler, JobQueue, Worker};
use ureq::Agent;
use ureq::http::Request;

use crate::Server;
use crate::access::{Access, Role, new_token};
use crate::route::Route;
use crate::router::routes;

#[path = "../../../tests/it/has.rs"]
mod has;
pub(crate) use has::Has;

#[test]
fn each_role_uses_its_routes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens");
    let made = Role::ALL.map(|role| (role, new_token(role.as_str(), role).unwrap()));
    let lines = made.each_ref().map(|(_, (_, line))| line.as_str());
    fs::write(&path, lines.join("\n")).unwrap();
    {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let queue = JobQueue::open(&folder.path().join("llm_jobs.db")).unwrap();
    let worker = Worker::new(&queue).handle("shout", Handler::new(|_, _| Ok(())));
    let server = Server::new(queue, worker).address(([127, 0, 0, 1], 0).into());
    let server = server.token_file(path).start().unwrap();
    let agent: Agent = Agent::config_builder()
        .http_status_as_error(false)
        .build()
        .into();
    // No object has such an id: who may ask is decided before.
    let ask = |route: &Route, token: Option<&str>| {
        let path = route.path.replace(['{', '}'], "");
        let url = format!("http://{}{path}", server.address());
        let mut request = Request::builder().method(route.method).uri(url);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let answer = match route.method {
            "GET" | "DELETE" => agent.run(request.body(()).unwrap()),
            _ => {
                let request = request.header("content-type", "application/json");
                agent.run(request.body("{}").unwrap())
            }
        };
        answer.unwrap().status().as_u16()
    };
    for route in routes() {
        let at = format!("{} {}", route.method, route.path);
        let is_open = route.access == Access::Open;
        assert_eq!(ask(route, None) == 401, !is_open, "{at}");
        for (role, (token, _)) in &made {
            let status = ask(route, Some(token.expose()));
            let at = format!("{at} as {}: {status}", role.as_str());
            assert_eq!(status == 403, !role.may(route.access), "{at}");
            assert!(status != 401, "{at}");
        }
    }
    server.stop().unwrap();
}
