//! Simulates a device that writes to memory as a NIC does, and a port on it: a small implementation outside the crate.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ptr;
use std::rc::Rc;

use oxide::port::Burst;
use oxide::port::sim::Rng;
use oxide::umem::{PortIndex, PortKey, Umem};

/// Start of packets within their frame, and their length, bytes.
const OFFSET: u64 = 256;
const LENGTH: u32 = 64;

/// Holds the contents of one socket's rings.
#[derive(Default)]
struct Socket {
    fill: Vec<u64>,
    rx: VecDeque<u64>,
    tx: VecDeque<u64>,
    completion: VecDeque<u64>,
    closed: bool,
}

impl Socket {
    /// Writes to every frame posted for reception, and moves some entries to the next ring. Returns the number of received
    /// packets.
    fn work(&mut self, memory: u64, rng: &mut Rng) -> u64 {
        let byte = rng.below(256) as u8;
        for &address in &self.fill {
            // The kernel's addresses are relative to the mapping that `Umem::span` returned.
            let at = ptr::with_exposed_provenance_mut::<u8>((memory + address) as usize);
            // SAFETY: the frame was posted with this socket's key and not returned: it lies within the memory, which
            // lives as long as the test's loop, and is the device's to write to.
            unsafe { ptr::write_bytes(at, byte, LENGTH as usize) };
        }
        let before = self.rx.len();
        while !self.closed && rng.below(4) > 0 && !self.fill.is_empty() {
            self.rx.push_back(self.fill.swap_remove(0));
        }
        while !self.closed && rng.below(4) > 0 {
            self.completion.extend(self.tx.pop_front());
        }
        (self.rx.len() - before) as u64
    }
}

/// Holds the sockets of one device queue that the device still uses.
pub(crate) struct Queue {
    memory: u64,
    port: PortIndex,
    sockets: Vec<Rc<RefCell<Socket>>>,
}

impl Queue {
    pub(crate) fn new(umem: &Umem, port: PortIndex) -> Self {
        Self { memory: umem.span().0, port, sockets: Vec::new() }
    }

    /// Binds a socket to the queue's memory, as a backend does.
    pub(crate) fn open(&mut self, umem: &mut Umem) -> Result<DevicePort, String> {
        if umem.span().0 != self.memory {
            return Err("other memory".to_owned());
        }
        // SAFETY: the key stays in `DevicePort`, which posts what it gets with it, and reports what `Socket::work` has
        // put on the ring in question and does not touch any more.
        let key = unsafe { umem.kernel_port(self.port) }.map_err(|taken| taken.to_string())?;
        if self.sockets.is_empty() {
            // SAFETY: the device has finished with every earlier socket.
            unsafe { umem.take_back(self.port) };
        }
        let socket = Rc::new(RefCell::new(Socket::default()));
        self.sockets.push(Rc::clone(&socket));
        Ok(DevicePort { key, socket })
    }

    /// Lets the device work, also for closed sockets. Returns the number of received packets.
    pub(crate) fn work(&mut self, rng: &mut Rng) -> u64 {
        self.sockets.retain(|socket| !socket.borrow().closed || rng.below(16) > 0);
        self.sockets.iter().map(|socket| socket.borrow_mut().work(self.memory, rng)).sum()
    }
}

/// Is the program's end of a socket.
pub(crate) struct DevicePort {
    key: PortKey,
    socket: Rc<RefCell<Socket>>,
}

impl Drop for DevicePort {
    fn drop(&mut self) {
        self.socket.borrow_mut().closed = true;
    }
}

impl DevicePort {
    pub(crate) fn fill(&mut self, umem: &mut Umem) {
        let size = u64::from(umem.layout().frame_size());
        let mut socket = self.socket.borrow_mut();
        while socket.fill.len() < 8
            && let Some(frame) = umem.post_fill(&self.key)
        {
            socket.fill.push(u64::from(frame) * size + OFFSET);
        }
    }

    pub(crate) fn receive(&mut self, umem: &mut Umem, into: &mut Burst) {
        let mut socket = self.socket.borrow_mut();
        // Peek first: if the memory refuses the key, the packet stays on the ring.
        while let Some(&address) = socket.rx.front() {
            let received = umem.received(&self.key, address, LENGTH);
            socket.rx.pop_front();
            if let Ok(frame) = received
                && let Err(frame) = into.push(frame)
            {
                return umem.give(frame);
            }
        }
    }

    pub(crate) fn transmit(&mut self, umem: &mut Umem, from: &mut Burst) {
        let mut socket = self.socket.borrow_mut();
        while let Some(frame) = from.pop() {
            socket.tx.push_back(umem.post_transmit(&self.key, frame).0);
        }
    }

    pub(crate) fn reclaim(&mut self, umem: &mut Umem) {
        let mut socket = self.socket.borrow_mut();
        while let Some(&address) = socket.completion.front() {
            let _ = umem.completed(&self.key, address);
            socket.completion.pop_front();
        }
    }
}
