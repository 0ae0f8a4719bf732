//! AF_XDP: sockets, steering, attachment.
