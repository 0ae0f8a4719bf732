//! AF_XDP: sockets, steering, attachment.

pub mod steering;
