//! Two netlink sockets: one that follows the kernel's notices, one that asks. Owned by the service's loop;
//! closed when dropped.

use std::io;
use std::pin::Pin;
use std::time::Duration;

use futures_util::{FutureExt, Stream, StreamExt};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::packet_route::neighbour::{
    NeighbourAttribute, NeighbourFlags, NeighbourHeader, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::{AsyncSocket, SocketAddr};
use rtnetlink::{Handle, MulticastGroup};
use tokio::task::JoinSet;

use super::decode::{TableUpdate, table_update};
use super::state::{Key, TableBuilder};
use super::tables::Route;

const GROUPS: [MulticastGroup; 6] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Neigh,
];

/// A request the kernel has not answered by now never will be: its answer was lost.
const ANSWER: Duration = Duration::from_secs(10);
/// A dump that raced with changes is marked so by the kernel, and taken again; under endless churn the
/// notices that follow mend what is left.
const DUMP_ATTEMPTS: u32 = 5;

type Message = NetlinkMessage<RouteNetlinkMessage>;

/// What the notices socket says next.
pub(super) enum NetlinkNotice {
    /// Something the tables hold.
    TableUpdate(TableUpdate),
    /// Something else.
    Other,
    /// Notices were lost, or the socket is gone: everything must be read anew.
    Lost(&'static str),
}

pub(super) struct NetlinkSockets {
    notices: Pin<Box<dyn Stream<Item = (Message, SocketAddr)> + Send>>,
    requests: Handle,
    /// Drives both sockets; aborted when dropped.
    _drivers: JoinSet<()>,
}

impl NetlinkSockets {
    /// Opens both sockets; from now on notices are kept by the kernel, up to `receive_buffer` bytes of them.
    pub(super) fn open(receive_buffer: usize) -> io::Result<Self> {
        let (mut follow, _, notices) = rtnetlink::new_multicast_connection(&GROUPS)?;
        let socket = follow.socket_mut().socket_ref();
        // The forced one passes net.core.rmem_max, but needs CAP_NET_ADMIN.
        rustix::net::sockopt::set_socket_recv_buffer_size_force(socket, receive_buffer)
            .or_else(|_| rustix::net::sockopt::set_socket_recv_buffer_size(socket, receive_buffer))?;
        let (mut ask, requests, _) = rtnetlink::new_connection()?;
        // Else a dump that was cut short looks like one that is complete.
        ask.set_forward_done(true);
        ask.set_forward_ack(true);
        let mut drivers = JoinSet::new();
        drivers.spawn(follow);
        drivers.spawn(ask);
        Ok(Self { notices: Box::pin(notices), requests, _drivers: drivers })
    }

    /// The next notice. Cancel-safe.
    pub(super) async fn notice(&mut self) -> NetlinkNotice {
        match self.notices.next().await {
            Some((message, _)) => notice(message),
            None => NetlinkNotice::Lost("the netlink socket was closed"),
        }
    }

    /// A notice that is already here.
    pub(super) fn pending(&mut self) -> Option<NetlinkNotice> {
        let (message, _) = self.notices.next().now_or_never()??;
        Some(notice(message))
    }

    /// Everything, by dumps.
    pub(super) async fn state(&mut self) -> io::Result<TableBuilder> {
        let mut state = TableBuilder::default();
        let links = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let addresses = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let neighbours = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
        for request in [links, addresses, neighbours] {
            for update in self.dump(request).await? {
                state.apply(update);
            }
        }
        state.set_routes(self.routes().await?);
        Ok(state)
    }

    /// The routes of both families.
    pub(super) async fn routes(&mut self) -> io::Result<Vec<Route>> {
        let mut all = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            for update in self.dump(RouteNetlinkMessage::GetRoute(request)).await? {
                if let TableUpdate::Routes { routes, .. } = update {
                    all.extend(routes);
                }
            }
        }
        Ok(all)
    }

    /// Has the kernel look at a neighbour as if it had a packet for it: ask for one it does not know,
    /// probe one that is stale (`ip neighbour ... use`, neigh_add in net/core/neighbour.c).
    pub(super) async fn use_neighbour(&mut self, (interface, address): Key) -> io::Result<()> {
        let mut message = NeighbourMessage::default();
        message.header = NeighbourHeader {
            family: if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 },
            ifindex: interface,
            state: NeighbourState::None,
            flags: NeighbourFlags::Use,
            ..NeighbourHeader::default()
        };
        message.attributes = vec![NeighbourAttribute::Destination(address.into())];
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        self.answers(RouteNetlinkMessage::NewNeighbour(message), flags).await.map(drop)
    }

    async fn dump(&mut self, request: RouteNetlinkMessage) -> io::Result<Vec<TableUpdate>> {
        let mut attempt = 1;
        loop {
            let answers = self.answers(request.clone(), NLM_F_REQUEST | NLM_F_DUMP).await?;
            let interrupted = answers.iter().any(|message| message.header.flags & NLM_F_DUMP_INTR != 0);
            if !interrupted || attempt == DUMP_ATTEMPTS {
                return Ok(answers.into_iter().filter_map(|message| message_fact(message, false)).collect());
            }
            attempt += 1;
        }
    }

    /// Sends a request, and collects what is answered up to its acknowledgement.
    async fn answers(&mut self, request: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<Message>> {
        let mut message = NetlinkMessage::from(request);
        message.header.flags = flags;
        let mut answers = Box::pin(self.requests.request(message).map_err(io::Error::other)?);
        let collect = async {
            let mut collected = Vec::new();
            while let Some(answer) = answers.next().await {
                match answer.payload {
                    NetlinkPayload::Done(_) => return Ok(collected),
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(collected),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    _ => collected.push(answer),
                }
            }
            Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the netlink socket was closed"))
        };
        tokio::time::timeout(ANSWER, collect)
            .await
            .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {ANSWER:?}"))))
    }
}

fn notice(message: Message) -> NetlinkNotice {
    if matches!(message.payload, NetlinkPayload::Overrun(_)) {
        return NetlinkNotice::Lost("the kernel had more notices than the socket's buffer holds (ENOBUFS)");
    }
    let replace = message.header.flags & NLM_F_REPLACE != 0;
    message_fact(message, replace).map_or(NetlinkNotice::Other, NetlinkNotice::TableUpdate)
}

fn message_fact(message: Message, replace: bool) -> Option<TableUpdate> {
    match message.payload {
        NetlinkPayload::InnerMessage(inner) => table_update(inner, replace),
        _ => None,
    }
}
