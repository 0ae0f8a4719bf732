//! The gateway with a stock client: wireguard-go in a namespace of its own, a server behind the gateway in another.
//!
//! ```text
//!  client namespace            gateway namespace              server namespace
//!  wireguard-go  10.99.0.2  .  engine + GatewayHandler     .
//!     cli 192.0.2.2 -----------wan 192.0.2.1   lan 198.51.100.1 ------ srv 198.51.100.2
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/netns.rs"]
mod netns;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use netns::{Far, Lab, in_namespace, skip_unless_root};
use oxide::config::{EngineConfig, ExecutorKind};
use oxide::engine::{Engine, RestartScope};
use oxide::port::QueueId;
use oxide::queue::{Batch, Context, Handler};
use oxide_gateway::{Gateway, GatewayConfig, GatewayError, GatewayHandler, GatewayPeer};
use oxide_tunnel::inner::DscpPolicy;
use oxide_tunnel::{HandshakeLimits, PresharedKey, PrivateKey};

const LISTEN: &str = "192.0.2.1:51820";
const SERVER: &str = "198.51.100.2";
const CLIENT_KEY: [u8; 32] = [0x41; 32];
const GATEWAY_KEY: [u8; 32] = [0x42; 32];

/// Drops what is not the gateway's.
struct Nothing;

impl Handler for Nothing {
    fn handle(&mut self, _: &mut Batch<'_>, _: &mut Context<'_>) {}
}

fn config() -> GatewayConfig {
    GatewayConfig {
        private_key: PrivateKey::from_bytes(GATEWAY_KEY),
        listen: LISTEN.parse().unwrap(),
        inner_prefixes: vec!["10.99.0.0/24".parse().unwrap(), "fd99::/64".parse().unwrap()],
        peers: vec![GatewayPeer {
            public_key: PrivateKey::from_bytes(CLIENT_KEY).public(),
            preshared_key: PresharedKey::default(),
            endpoint: None,
            allowed_ips: vec!["10.99.0.2".parse().unwrap(), "fd99::2".parse().unwrap()],
            persistent_keepalive: None,
        }],
        limits: HandshakeLimits::default(),
        dscp: DscpPolicy::Zero,
    }
}

/// A running wireguard-go; it ends with this value, and its interface with it.
struct WireguardGo {
    child: Child,
    interface: String,
}

impl WireguardGo {
    /// Starts the client in the namespace of `lab`.
    fn start(lab: &Lab, gateway_key: &str) -> Self {
        let interface = format!("oxg{}", std::process::id());
        let program =
            Command::new("wireguard-go").args(["-f", &interface]).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let client = Self { child: program.unwrap(), interface };
        let socket = Path::new("/var/run/wireguard").join(format!("{}.sock", client.interface));
        let end = Instant::now() + Duration::from_secs(20);
        while !socket.exists() {
            assert!(Instant::now() < end, "wireguard-go does not open {}", socket.display());
            std::thread::sleep(Duration::from_millis(5));
        }
        let key = std::env::temp_dir().join(format!("{}.key", client.interface));
        std::fs::write(&key, encoded(&CLIENT_KEY)).unwrap();
        let interface = &client.interface;
        lab.run(
            "wg",
            &format!(
                "set {interface} private-key {} peer {gateway_key} endpoint {LISTEN} allowed-ips 198.51.100.0/24,10.99.0.0/24,2001:db8::/64",
                key.display()
            ),
        );
        std::fs::remove_file(key).unwrap();
        lab.ip(&format!("link set {interface} mtu 1420"));
        lab.address(interface, "10.99.0.2/24");
        lab.address(interface, "fd99::2/64");
        lab.up(interface);
        lab.ip(&format!("route add 198.51.100.0/24 dev {interface}"));
        lab.ip(&format!("route add 2001:db8::/64 dev {interface}"));
        client
    }
}

impl Drop for WireguardGo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(format!("/var/run/wireguard/{}.sock", self.interface));
    }
}

/// Returns a key as `wg` reads it.
fn encoded(key: &[u8; 32]) -> String {
    // A public key prints itself; a private one does not, so it borrows the same form.
    oxide_tunnel::PublicKey::from_bytes(*key).unwrap().to_string()
}

fn link(lab: &Lab) -> (Far, Far) {
    // Neighbour discovery without a packet of the kernel's own needs a link-local address.
    lab.link_local();
    lab.veth("wan", "cli", 1, "02:00:00:00:00:01", "02:00:00:00:00:02");
    lab.veth("lan", "srv", 1, "02:00:00:00:00:03", "02:00:00:00:00:04");
    let (client, server) = (lab.second_namespace(), lab.second_namespace());
    lab.give("cli", &client);
    lab.give("srv", &server);
    lab.address("wan", "192.0.2.1/24");
    lab.address("lan", "198.51.100.1/24");
    lab.address("lan", "2001:db8::1/64");
    client.run(|lab| lab.address("cli", "192.0.2.2/24"));
    server.run(|lab| {
        lab.address("srv", &format!("{SERVER}/24"));
        lab.address("srv", "2001:db8::2/64");
        lab.ip("route add 10.99.0.0/24 via 198.51.100.1");
        lab.ip("route add fd99::/64 via 2001:db8::1");
    });
    (client, server)
}

fn start() -> (Gateway, Engine) {
    let gateway = Gateway::start(config(), 1).unwrap_or_else(|e| panic!("{e}"));
    let (listen, prefixes) = (gateway.listen(), gateway.prefixes());
    let factory = gateway.handlers();
    let mut config = EngineConfig::default();
    config.interfaces = vec!["wan".to_owned(), "lan".to_owned()];
    config.ring_size = 256;
    config.executor = ExecutorKind::Thread;
    let engine = Engine::builder(config, move |queue| GatewayHandler::new(&factory, queue, Nothing))
        .destinations(move |_| vec![(listen.ip(), listen.port()..=listen.port())])
        .prefixes(prefixes)
        .start()
        .unwrap_or_else(|e| panic!("{e}"));
    (gateway, engine)
}

/// Sends echo requests until `wanted` of them were answered.
fn ping(address: &str, wanted: u32) {
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, sockopt};
    let to: IpAddr = address.parse().unwrap();
    let (family, protocol) = match to {
        IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP),
        IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6),
    };
    let socket = rustix::net::socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, Some(protocol)).unwrap();
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(Duration::from_millis(300))).unwrap();
    // Type, code, checksum, identifier, number. The kernel computes the checksum of ICMPv6.
    let request: [u8; 8] =
        if to.is_ipv4() { [8, 0, 0xe5, 0xca, 0x12, 0x34, 0, 1] } else { [128, 0, 0, 0, 0x12, 0x34, 0, 1] };
    let (mut answered, end) = (0, Instant::now() + Duration::from_secs(30));
    while answered < wanted {
        assert!(Instant::now() < end, "{answered} of {wanted} echo requests to {address} were answered");
        let _ = rustix::net::sendto(&socket, &request, SendFlags::empty(), &SocketAddr::new(to, 0));
        let mut bytes = [0; 256];
        while let Ok((length, _)) = rustix::net::recv(&socket, &mut bytes, RecvFlags::empty()) {
            // IPv4 comes with its header, IPv6 without.
            let reply = if to.is_ipv4() { bytes.get(20..length) } else { bytes.get(..length) };
            if let Some([0 | 129, 0, _, _, 0x12, 0x34, ..]) = reply {
                answered += 1;
                break;
            }
        }
    }
}

/// Sends bytes to a server and back over TCP.
fn tcp_echo(client: &Far, server: &Far, length: usize) {
    let address: SocketAddr = (SERVER.parse::<IpAddr>().unwrap(), 7).into();
    let listener = server.run(move |_| TcpListener::bind(address).unwrap());
    let echo = std::thread::spawn(move || {
        let (mut stream, from) = listener.accept().unwrap();
        let mut bytes = vec![0; length];
        stream.read_exact(&mut bytes).unwrap();
        stream.write_all(&bytes).unwrap();
        from
    });
    client.run(move |_| {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(20)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(30))).unwrap();
        let sent: Vec<u8> = (0..length).map(|n| (n * 7 + n / 251) as u8).collect();
        stream.write_all(&sent).unwrap();
        let mut back = vec![0; length];
        stream.read_exact(&mut back).unwrap();
        assert!(sent == back, "the bytes changed on the way");
    });
    assert_eq!(echo.join().unwrap().ip().to_string(), "10.99.0.2", "the inner address is not translated");
}

#[test]
fn stock_client_reaches_a_server_behind_the_gateway() {
    const NAME: &str = "stock_client_reaches_a_server_behind_the_gateway";
    if skip_unless_root(NAME) || ["wireguard-go", "wg"].iter().any(|tool| is_missing(NAME, tool)) {
        return;
    }
    in_namespace(|lab| {
        let (client, server) = link(lab);
        let (gateway, engine) = start();
        let key = PrivateKey::from_bytes(GATEWAY_KEY).public().to_string();
        let wireguard = client.run(move |lab| WireguardGo::start(lab, &key));
        for address in [SERVER, "2001:db8::2"] {
            // The first packet makes the handshake and the resolution of two next hops begin.
            client.run(move |_| ping(address, 4));
        }
        // Any protocol, with full segments: TCP.
        tcp_echo(&client, &server, 1_000_000);
        for address in ["10.99.0.2", "fd99::2"] {
            server.run(move |_| ping(address, 4));
        }
        // Queues report their counters several times a second.
        let end = Instant::now() + Duration::from_secs(20);
        while engine.status().totals.tx_packets < 1_000 {
            assert!(Instant::now() < end, "the packets did not go through the engine: {:?}", engine.status().totals);
            std::thread::sleep(Duration::from_millis(20));
        }
        let interface = wireguard.interface.clone();
        let handshake = move |client: &Far| {
            let interface = interface.clone();
            client.run(move |lab| lab.run("wg", &format!("show {interface} latest-handshakes")))
        };
        let before = handshake(&client);
        engine.handle().restart(&QueueId::new("wan", 0), RestartScope::Handler).unwrap();
        client.run(|_| ping(SERVER, 4));
        assert_eq!(handshake(&client), before, "the next handler has the sessions");
        drop(wireguard);
        drop(engine);
        drop(gateway);
    });
}

#[test]
fn wrong_configurations_are_refused_by_field() {
    let refused = |change: fn(&mut GatewayConfig)| {
        let mut config = config();
        change(&mut config);
        config.check().unwrap_err().to_string()
    };
    let text = refused(|config| config.listen = "0.0.0.0:51820".parse().unwrap());
    assert!(text.starts_with("gateway.listen: wildcard address"), "{text}");
    let text = refused(|config| config.listen = "10.99.0.1:51820".parse().unwrap());
    assert!(text.contains("10.99.0.1:51820 is in inner prefix 10.99.0.0/24"), "{text}");
    let text = refused(|config| config.peers[0].allowed_ips.push("10.98.0.0/16".parse().unwrap()));
    assert!(text.contains("allowed IP 10.98.0.0/16 is in no inner prefix"), "{text}");
    let text = refused(|config| config.peers[0].allowed_ips.push("10.0.0.0/8".parse().unwrap()));
    assert!(text.contains("allowed IP 10.0.0.0/8 is in no inner prefix"), "{text}");
    let mut twice = config();
    twice.listen = "127.0.0.1:0".parse().unwrap();
    twice.peers.push(twice.peers[0].clone());
    assert!(matches!(Gateway::start(twice, 1), Err(GatewayError::Peer(_))));
}

#[test]
fn taken_listen_port_is_reported() {
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut config = config();
    config.listen = taken.local_addr().unwrap();
    let error = Gateway::start(config, 1).map(drop).unwrap_err().to_string();
    assert!(error.starts_with("gateway.listen: cannot listen on 127.0.0.1:"), "{error}");
}

/// Whether a program is missing, with a line that says so.
fn is_missing(test: &str, program: &str) -> bool {
    let missing = Command::new(program).arg("--version").output().is_err();
    if missing {
        let _ = writeln!(std::io::stderr(), "SKIPPED-OK {test}: `{program}` is missing");
    }
    missing
}
