//! Filters of a device's clsact queueing discipline, over a netlink socket that waits for each
//! answer: for threads that may wait.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcMessage, TcOption,
};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};

/// The queueing discipline that holds filters of both directions, and holds nothing up.
const CLSACT: &str = "clsact";
/// Its handle: `ffff:`.
const CLSACT_HANDLE: TcHandle = TcHandle { major: u16::MAX, minor: 0 };
/// Every protocol (`ETH_P_ALL`, linux/if_ether.h), in network order.
const ALL_PROTOCOLS: u16 = 3_u16.to_be();

/// Which of the discipline's two lists of filters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// What comes in.
    Ingress,
    /// What goes out.
    Egress,
}

impl Side {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];

    const fn parent(self) -> TcHandle {
        let minor = match self {
            Self::Ingress => TcHandle::MIN_INGRESS,
            Self::Egress => TcHandle::MIN_EGRESS,
        };
        TcHandle { major: u16::MAX, minor }
    }
}

/// What tells a filter from the others on its list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Interface index.
    pub index: u32,
    /// Which list.
    pub side: Side,
    /// Lower ones run first.
    pub priority: u16,
    /// Number among those of one priority.
    pub handle: u32,
}

/// A filter that is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Filter {
    /// Priority.
    pub priority: u16,
    /// Number among those of one priority.
    pub handle: u32,
    /// `bpf`, `flower`, ...
    pub kind: String,
    /// Name that a bpf filter was given.
    pub name: Option<String>,
    /// Program of a bpf filter.
    pub program_id: Option<u32>,
}

/// A netlink socket.
pub struct TrafficControl {
    socket: Socket,
    sequence: u32,
}

impl TrafficControl {
    /// In the network namespace of the calling thread.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Give the device a clsact discipline, if it has none. EEXIST: it has an `ingress` one in its
    /// place.
    pub fn add_clsact(&mut self, index: u32) -> io::Result<()> {
        let request = RouteNetlinkMessage::NewQueueDiscipline(clsact(index));
        match self.change(request, NLM_F_CREATE | NLM_F_EXCL) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                if self.has_clsact(index)? {
                    Ok(())
                } else {
                    Err(error)
                }
            }
            other => other,
        }
    }

    /// Whether the device has a clsact discipline.
    fn has_clsact(&mut self, index: u32) -> io::Result<bool> {
        let mut message = TcMessage::default();
        message.header.index = as_index(index);
        let request = RouteNetlinkMessage::GetQueueDiscipline(message);
        let found = self.list(request, |message| match message {
            RouteNetlinkMessage::NewQueueDiscipline(found) => Some(found),
            _ => None,
        })?;
        // Kernels before 4.20 list those of every device.
        let of_device = |message: &&TcMessage| message.header.index == as_index(index);
        Ok(found.iter().filter(of_device).any(|message| kind(message) == CLSACT))
    }

    /// Take the discipline away, with all its filters.
    pub fn delete_clsact(&mut self, index: u32) -> io::Result<()> {
        self.change(RouteNetlinkMessage::DelQueueDiscipline(clsact(index)), 0)
    }

    /// Put a program there that decides by itself what becomes of a packet, in the place of the
    /// filter that is there. No packet is missed.
    pub fn put_filter(
        &mut self,
        place: Place,
        program: BorrowedFd<'_>,
        name: &str,
    ) -> io::Result<()> {
        let options = [
            // A descriptor is never negative.
            TcFilterBpfOption::ProgFd(program.as_raw_fd().unsigned_abs()),
            TcFilterBpfOption::ProgName(name.to_owned()),
            TcFilterBpfOption::Flags(TcBpfFlags::DirectAction),
        ];
        let mut message = at(place);
        message.attributes.push(TcAttribute::Kind(TcFilterBpf::KIND.to_owned()));
        let options = options.into_iter().map(TcOption::Bpf).collect();
        message.attributes.push(TcAttribute::Options(options));
        self.change(RouteNetlinkMessage::NewTrafficFilter(message), NLM_F_CREATE)
    }

    /// Remove a filter.
    pub fn delete_filter(&mut self, place: Place) -> io::Result<()> {
        let mut message = at(place);
        message.attributes.push(TcAttribute::Kind(TcFilterBpf::KIND.to_owned()));
        self.change(RouteNetlinkMessage::DelTrafficFilter(message), 0)
    }

    /// The filters of one list. None as well if the device is gone.
    pub fn filters(&mut self, index: u32, side: Side) -> io::Result<Vec<Filter>> {
        let mut message = TcMessage::default();
        message.header.index = as_index(index);
        message.header.parent = side.parent();
        let request = RouteNetlinkMessage::GetTrafficFilter(message);
        let found = self.list(request, |message| match message {
            RouteNetlinkMessage::NewTrafficFilter(found) => Some(found),
            _ => None,
        })?;
        // The first message about a priority is about all of it, and has no handle.
        let single = found.iter().filter(|message| u32::from(message.header.handle) != 0);
        Ok(single.map(filter).collect())
    }

    fn change(&mut self, request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.exchange(request, NLM_F_ACK | flags, |_| {})
    }

    fn list<T>(
        &mut self,
        request: RouteNetlinkMessage,
        wanted: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        let mut found = Vec::new();
        self.exchange(request, NLM_F_DUMP, |message| found.extend(wanted(message)))?;
        Ok(found)
    }

    /// Send a request and take its answers, up to the last.
    fn exchange(
        &mut self,
        request: RouteNetlinkMessage,
        flags: u16,
        mut take: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut request = NetlinkMessage::from(request);
        request.header.flags = NLM_F_REQUEST | flags;
        request.header.sequence_number = self.sequence;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        loop {
            let (answers, _) = self.socket.recv_from_full()?;
            if self.take_answers(&answers, &mut take)? {
                return Ok(());
            }
        }
    }

    /// The answers of one datagram. True: the last is among them.
    fn take_answers(
        &self,
        mut bytes: &[u8],
        take: &mut impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<bool> {
        while !bytes.is_empty() {
            let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes)
                .map_err(io::Error::other)?;
            let length = (answer.header.length as usize).next_multiple_of(NETLINK_ALIGN);
            bytes = bytes.get(length..).unwrap_or_default();
            if answer.header.sequence_number != self.sequence {
                // The rest of an exchange that failed.
                continue;
            }
            match answer.payload {
                NetlinkPayload::Done(_) => return Ok(true),
                NetlinkPayload::Error(answer) if answer.code.is_none() => return Ok(true),
                NetlinkPayload::Error(answer) => return Err(answer.to_io()),
                NetlinkPayload::InnerMessage(message) => take(message),
                _ => {}
            }
        }
        Ok(false)
    }
}

/// Netlink messages begin at multiples of this (`NLMSG_ALIGNTO`).
const NETLINK_ALIGN: usize = 4;

const fn as_index(index: u32) -> i32 {
    index.cast_signed()
}

fn clsact(index: u32) -> TcMessage {
    let mut message = TcMessage::with_index(as_index(index));
    message.header.handle = CLSACT_HANDLE;
    message.header.parent = TcHandle::CLSACT;
    message.attributes.push(TcAttribute::Kind(CLSACT.to_owned()));
    message
}

fn at(place: Place) -> TcMessage {
    let mut message = TcMessage::with_index(as_index(place.index));
    message.header.parent = place.side.parent();
    message.header.handle = TcHandle::from(place.handle);
    message.header.info = u32::from(place.priority) << 16 | u32::from(ALL_PROTOCOLS);
    message
}

fn kind(message: &TcMessage) -> &str {
    let mut attributes = message.attributes.iter();
    let kind = attributes.find_map(|attribute| match attribute {
        TcAttribute::Kind(kind) => Some(kind.as_str()),
        _ => None,
    });
    kind.unwrap_or_default()
}

fn filter(message: &TcMessage) -> Filter {
    let mut filter = Filter {
        priority: (message.header.info >> 16) as u16,
        handle: u32::from(message.header.handle),
        kind: kind(message).to_owned(),
        name: None,
        program_id: None,
    };
    let options = message.attributes.iter().filter_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    });
    for option in options.flatten() {
        match option {
            TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => filter.name = Some(name.clone()),
            TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => filter.program_id = Some(*id),
            _ => {}
        }
    }
    filter
}
