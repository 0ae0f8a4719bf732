//! Runs the third-party programs that communicate through the relay: set-up, runs, and checks of their results.

use super::dns;
use super::lab::{Family, Lab};
use super::relay::{IPERF, WIREGUARD};
use crate::process::{Output, Result, Running, Session, failed, io_error};
use serde_json::Value;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Size of the file that nginx serves inside the tunnel.
const FILE_BYTES: u64 = 100_000_000;
/// MTU of the tunnel: 1500 minus the headers of IPv6, UDP and WireGuard (80 bytes), so that the servers' link carries
/// each packet whole.
const TUNNEL_MTU: u32 = 1420;
/// Size of iperf3's datagrams. Each direction has two flows of this size and rate.
const UDP_BYTES: &str = "1200";
const UDP_BITS_PER_SECOND: &str = "50M";
/// Largest buffer of an unprivileged socket (net.core.rmem_max). The default holds less than 20 ms of traffic.
const SOCKET_BUFFER: &str = "208K";
/// Maximum loss in percent between the two kernels in a UDP step. UDP may lose some on a busy machine; the loss is
/// printed.
const TOLERATED_LOSS_PERCENT: u64 = 10;

/// Returns the server's address inside the tunnel: the servers' end is .1, the clients' .2.
const fn tunnel_server(family: Family) -> &'static str {
    match family {
        Family::V4 => "10.9.0.1",
        Family::V6 => "fd00:9::1",
    }
}

/// Holds the servers and both tunnel ends. Dropping it ends them.
#[derive(Debug)]
pub(super) struct Programs {
    servers: Vec<Running>,
    client_tunnel: String,
    server_key: String,
    file_hash: String,
    sockets: Vec<PathBuf>,
}

impl Drop for Programs {
    fn drop(&mut self) {
        self.servers.clear();
        for socket in &self.sockets {
            // wireguard-go removes its socket itself, unless it was killed.
            let _ = fs::remove_file(socket);
        }
    }
}

impl Programs {
    /// Starts the DNS, web and iperf3 servers and both ends of the tunnel.
    pub(super) fn start(session: &Session, lab: &Lab) -> Result<Self> {
        forward_iperf_control(session, lab)?;
        let file_hash = write_file(session)?;
        let mut programs = Self {
            servers: vec![],
            client_tunnel: String::new(),
            server_key: String::new(),
            file_hash,
            sockets: vec![],
        };
        let dns_conf = session.dir.join("dnsmasq.conf");
        write(&dns_conf, &dns::dnsmasq_conf())?;
        let web = session.dir.join("nginx.conf");
        write(&web, &nginx_conf(&session.dir))?;
        let (dns_conf, web, dir) = (path(&dns_conf), path(&web), path(&session.dir));
        let start = |name, argv: &[&str]| lab.servers.spawn(session, name, argv);
        programs.servers.push(start("dnsmasq", &["dnsmasq", "--no-daemon", "-C", &dns_conf])?);
        programs.servers.push(start("iperf3-server", &["iperf3", "-s", "-p", &IPERF.to_string()])?);
        programs.servers.push(start("nginx", &["nginx", "-p", &dir, "-c", &web, "-e", "stderr"])?);
        programs.tunnel(session, lab)?;
        programs.must_run()?;
        Ok(programs)
    }

    /// Fails with its last output if one of the servers has ended.
    pub(super) fn must_run(&mut self) -> Result<()> {
        self.servers.iter_mut().try_for_each(Running::must_run)
    }

    /// Starts wireguard-go on both ends. Each step then sets the client's endpoint to the relay's address of its
    /// family.
    fn tunnel(&mut self, session: &Session, lab: &Lab) -> Result<()> {
        let pid = std::process::id();
        let key = |end: &str| -> Result<(String, String)> {
            let private = session.run("wg", &["wg", "genkey"], Duration::from_secs(20))?.stdout;
            let file = session.dir.join(format!("{end}.key"));
            write(&file, &private)?;
            let public = session.run_with_input("wg", &["wg", "pubkey"], &private, Duration::from_secs(20))?;
            Ok((path(&file), public.stdout.trim().to_owned()))
        };
        let (client, server) = (key("client")?, key("server")?);
        self.client_tunnel = format!("oxc{pid}");
        let server_tunnel = format!("oxs{pid}");
        let port = WIREGUARD.to_string();
        for (ns, interface, private, peer, host) in [
            (&lab.clients, &self.client_tunnel, &client.0, &server.1, 2),
            (&lab.servers, &server_tunnel, &server.0, &client.1, 1),
        ] {
            let socket = Path::new("/var/run/wireguard").join(format!("{interface}.sock"));
            self.sockets.push(socket.clone());
            let mut tunnel = ns.spawn(session, "wireguard-go", &["wireguard-go", "-f", interface])?;
            let end = Instant::now() + Duration::from_secs(10);
            while !socket.exists() {
                tunnel.must_run()?;
                if Instant::now() > end {
                    return failed(format!("wireguard-go: {} does not exist after 10 s", socket.display()));
                }
                session.cancel.sleep(Duration::from_millis(5))?;
            }
            self.servers.push(tunnel);
            let listen = if host == 1 { &["listen-port", &port][..] } else { &[] };
            let peer = ["peer", peer, "allowed-ips", "10.9.0.0/24,fd00:9::/64"];
            ns.run(session, "wg", &[&["wg", "set", interface, "private-key", private], listen, &peer].concat())?;
            let batch = format!(
                "link set {interface} mtu {TUNNEL_MTU}\naddress add 10.9.0.{host}/24 dev {interface}\n\
                 address add fd00:9::{host}/64 dev {interface} nodad\nlink set {interface} up\n"
            );
            session.run_with_input("ip", &ns.argv(&["ip", "-batch", "-"]), &batch, Duration::from_secs(20))?;
        }
        self.server_key = server.1;
        Ok(())
    }

    /// Sets the endpoint of the tunnel's client to the relay, for this family.
    pub(super) fn use_endpoint(&self, session: &Session, lab: &Lab, family: Family) -> Result<()> {
        let endpoint = family.socket(family.relay(), WIREGUARD);
        let argv = ["wg", "set", &self.client_tunnel, "peer", &self.server_key, "endpoint", &endpoint];
        lab.clients.run(session, "wg", &argv).map(|_| ())
    }

    /// Runs iperf3 over TCP inside the tunnel.
    pub(super) fn tunnel_tcp(&self, session: &Session, lab: &Lab, family: Family, seconds: u32) -> Result<String> {
        let end = iperf3(session, lab, tunnel_server(family), seconds, &[])?;
        let rate = end.pointer("/sum_received/bits_per_second").and_then(Value::as_f64).unwrap_or_default();
        if rate <= 0.0 {
            return failed("iperf3: no data through the tunnel");
        }
        let retransmits = end.pointer("/sum_sent/retransmits").and_then(Value::as_u64).unwrap_or_default();
        self.endpoint_is(session, lab, family)?;
        Ok(format!("{:.0} Mbit/s inside, {retransmits} retransmits", rate / 1e6))
    }

    /// Fetches the file by curl through the tunnel and compares its SHA-256.
    pub(super) fn fetch(&self, session: &Session, lab: &Lab, family: Family) -> Result<String> {
        let got = session.dir.join("fetched");
        let url = format!("http://{}/file", family.socket(tunnel_server(family), 80));
        let got_text = path(&got);
        let argv = ["curl", "--silent", "--show-error", "--fail", "--noproxy", "*", "--output", &got_text, &url];
        session.run("curl", &lab.clients.argv(&argv), Duration::from_secs(90))?;
        let hash = sha256(session, &got)?;
        let _ = fs::remove_file(&got);
        if hash != self.file_hash {
            return failed(format!("curl: SHA-256 of the fetched file is {hash}; expected {}", self.file_hash));
        }
        self.endpoint_is(session, lab, family)?;
        Ok(format!("{} MB, SHA-256 equal", FILE_BYTES / 1_000_000))
    }

    /// Runs iperf3 over UDP, directly through the relay.
    pub(super) fn udp(
        &self,
        session: &Session,
        lab: &Lab,
        family: Family,
        seconds: u32,
        reverse: bool,
    ) -> Result<String> {
        let mut options = vec!["-u", "-b", UDP_BITS_PER_SECOND, "-l", UDP_BYTES, "-w", SOCKET_BUFFER, "-P", "2"];
        if reverse {
            options.push("-R");
        }
        let receiver = if reverse { &lab.clients } else { &lab.servers };
        let before = receiver.udp_counter("RcvbufErrors")?;
        let end = iperf3(session, lab, family.relay(), seconds, &options)?;
        let late = receiver.udp_counter("RcvbufErrors")? - before;
        let number = |name: &str| end.get("sum").and_then(|s| s.get(name)).and_then(Value::as_u64);
        let (Some(packets), Some(lost)) = (number("packets"), number("lost_packets")) else {
            return failed(format!("iperf3: unknown output: {end}"));
        };
        let in_transit = lost.saturating_sub(late);
        if packets == 0 || in_transit * 100 > packets * TOLERATED_LOSS_PERCENT {
            return failed(format!("iperf3: {in_transit} of {packets} datagrams were lost in transit"));
        }
        let late = if late == 0 { String::new() } else { format!(", in iperf3's full socket: {late}") };
        Ok(format!("{packets} datagrams, lost in transit: {in_transit}{late}"))
    }

    /// Checks that the tunnel's peer is still the relay: otherwise packets could take another route.
    fn endpoint_is(&self, session: &Session, lab: &Lab, family: Family) -> Result<()> {
        let show = lab.clients.run(session, "wg", &["wg", "show", &self.client_tunnel, "endpoints"])?;
        let wanted = family.socket(family.relay(), WIREGUARD);
        if show.stdout.trim_end().ends_with(&wanted) {
            return Ok(());
        }
        failed(format!("WireGuard: the endpoint has changed: {}; expected {wanted}", show.stdout))
    }
}

/// Runs the client and returns the `end` object of its JSON.
fn iperf3(session: &Session, lab: &Lab, server: &str, seconds: u32, options: &[&str]) -> Result<Value> {
    let (port, time) = (IPERF.to_string(), seconds.to_string());
    let argv =
        [&["iperf3", "-c", server, "-p", &port, "-t", &time, "--connect-timeout", "5000", "--json"], options].concat();
    let Output { stdout, stderr, status } =
        session.try_run("iperf3", &lab.clients.argv(&argv), Duration::from_secs(u64::from(seconds) + 30))?;
    let json: Value = serde_json::from_str(&stdout).unwrap_or_default();
    if let Some(error) = json.get("error").and_then(Value::as_str) {
        return failed(format!("iperf3: {error}"));
    }
    match json.get("end") {
        Some(end) if status.success() => Ok(end.clone()),
        _ => failed(format!("iperf3 ended with {status}: {stderr}")),
    }
}

/// Forwards iperf3's TCP connection to the port that later receives UDP. The relay's XDP program leaves TCP to the
/// kernel, and this rule forwards it. UDP has no rule, so only the relay can carry it.
fn forward_iperf_control(session: &Session, lab: &Lab) -> Result<()> {
    let (v4, v6) = (Family::V4.server(), Family::V6.server());
    let rules = format!(
        "table inet demo {{\n\
         chain to_server {{ type nat hook prerouting priority dstnat;\n\
         iifname \"r0\" tcp dport {IPERF} meta nfproto ipv4 dnat ip to {v4}\n\
         iifname \"r0\" tcp dport {IPERF} meta nfproto ipv6 dnat ip6 to {v6}\n}}\n\
         chain from_relay {{ type nat hook postrouting priority srcnat;\n oifname \"r1\" meta l4proto tcp masquerade\n}}\n}}\n"
    );
    let forwarding = "echo 1 > /proc/sys/net/ipv4/ip_forward && echo 1 > /proc/sys/net/ipv6/conf/all/forwarding";
    lab.relay.run(session, "forwarding", &["sh", "-c", forwarding])?;
    session.run_with_input("nft", &lab.relay.argv(&["nft", "-f", "-"]), &rules, Duration::from_secs(10)).map(|_| ())
}

/// Returns nginx's configuration: one process, and no file outside the demo's folder.
fn nginx_conf(dir: &Path) -> String {
    let dir = dir.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .fold(String::new(), |text, kind| text + &format!("{kind}_temp_path {dir}/nginx-{kind}; "));
    format!(
        "daemon off; master_process off; user root; pid {dir}/nginx.pid; error_log stderr;\n\
         events {{ worker_connections 64; }}\n\
         http {{ access_log off; sendfile on; {temporary}\n\
         server {{ listen 80; listen [::]:80; root {dir}/www; }} }}\n"
    )
}

/// Writes random bytes, so that no part looks like another, and returns their hash.
fn write_file(session: &Session) -> Result<String> {
    let www = session.dir.join("www");
    fs::create_dir(&www).map_err(io_error(www.display()))?;
    let file = www.join("file");
    let random = fs::File::open("/dev/urandom").map_err(io_error("/dev/urandom"))?;
    let mut out = fs::File::create(&file).map_err(io_error(file.display()))?;
    std::io::copy(&mut random.take(FILE_BYTES), &mut out).map_err(io_error(file.display()))?;
    sha256(session, &file)
}

fn sha256(session: &Session, file: &Path) -> Result<String> {
    let output = session.run("sha256sum", &["sha256sum", "--", &path(file)], Duration::from_secs(60))?;
    match output.stdout.split_whitespace().next() {
        Some(hash) if hash.len() == 64 => Ok(hash.to_owned()),
        _ => failed(format!("sha256sum: unknown output: {}", output.stdout)),
    }
}

pub(super) fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).map_err(io_error(file.display()))
}

pub(super) fn path(path: &Path) -> String {
    path.display().to_string()
}
