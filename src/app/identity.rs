//! Who this replica is, among all that may lead.

use std::{fs, net::SocketAddr, path::Path};

use sha2::{Digest as _, Sha256};

/// The host's name, for people, and a hash of what tells this process from every other living one: the kernel that it
/// runs on since its boot, the network in it, and the port there, which one process has at a time. Started again after a
/// crash it is the same, so it takes its own Lease back at once; hosts of one name (cloned machines) are never the same.
pub(super) fn of(listen: SocketAddr) -> String {
    let boot = read(Path::new("/proc/sys/kernel/random/boot_id"));
    let network = fs::read_link("/proc/self/ns/net").unwrap_or_default();
    let host = read(Path::new("/proc/sys/kernel/hostname"));
    name(&host, &format!("{boot} {} {listen}", network.display()))
}

fn name(host: &str, place: &str) -> String {
    let host = if host.is_empty() { "gharts-listener" } else { host };
    let hash = Sha256::digest(place);
    let hash = u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]);
    format!("{host}_{hash:08x}")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b42_two_living_processes_never_share_an_identity_and_a_process_started_again_has_its_own() {
        let [here, there] = ["127.0.0.1:8080", "127.0.0.1:8081"].map(|text| text.parse().unwrap());
        assert_eq!(of(here), of(here));
        assert_ne!(of(here), of(there));
        assert_ne!(
            name("vm", "boot-1 net:[1] 0.0.0.0:8080"),
            name("vm", "boot-2 net:[1] 0.0.0.0:8080")
        );
        let host = read(Path::new("/proc/sys/kernel/hostname"));
        assert!(of(here).starts_with(&format!("{host}_")));
    }
}
