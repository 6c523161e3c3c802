use super::*;

#[test]
fn a_process_whose_launcher_was_killed_belongs_to_the_session_of_the_launcher() {
    let orders = Orders {
        run: "run".into(),
        batchwright: 1,
        folder: "/".into(),
        memory: None,
        processes: None,
        owns_children: false,
        cgroups: None,
    };
    let launcher = Command {
        serves: true,
        ..Command::new(100)
    };
    let watchdog = Watchdog {
        orders,
        commands: HashMap::from([(7, launcher)]),
        starting: HashSet::new(),
        strays: HashMap::new(),
        over: false,
        unread: Vec::new(),
    };
    // It has ended already, so that its environment is not read.
    let orphan = |session| Process {
        identity: Identity {
            pid: 200,
            started: 0,
        },
        parent: 1,
        group: 200,
        session,
        threads: 1,
        resident: 0,
        ended: true,
    };
    let of = |session| {
        let assigned = watchdog.assign(&[orphan(session)]);
        assigned.first().map(|(number, _)| *number)
    };
    assert_eq!(of(100), Some(7));
    assert_eq!(of(300), None);
    // The end of the input means that batchwright was killed, unless it has announced the end of the run.
    assert!(watchdog.is_alone());
}
