//! One NIC queue as its owner sees it.
