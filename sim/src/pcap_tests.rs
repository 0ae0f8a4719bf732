#![allow(clippy::unwrap_used)]
use super::*;

/// Returns a file of two packets in the given byte order and resolution.
fn file(big_endian: bool, nanoseconds: bool) -> Vec<u8> {
    let mut file = Vec::new();
    let mut put = |words: &[u32], bytes: &[u8]| {
        for word in words {
            file.extend(if big_endian { word.to_be_bytes() } else { word.to_le_bytes() });
        }
        file.extend(bytes);
    };
    let magic = if nanoseconds { NANOSECONDS } else { MICROSECONDS };
    // Version 2.4 is two numbers of 16 bits. Their order in a 32-bit number depends on the byte order.
    put(&[magic, if big_endian { 2 << 16 | 4 } else { 4 << 16 | 2 }, 0, 0, 65_535, ETHERNET], b"");
    put(&[10, 999_999, 5, 5], b"first");
    put(&[11, 7, 6, 6], b"second");
    file
}

#[test]
fn both_byte_orders_and_resolutions() {
    for big_endian in [false, true] {
        for nanoseconds in [false, true] {
            let file = file(big_endian, nanoseconds);
            let packets = read(&file).unwrap();
            let unit = if nanoseconds { 1 } else { 1000 };
            let at = |seconds, fraction: u64| Duration::from_secs(seconds) + Duration::from_nanos(fraction * unit);
            let wanted =
                [Captured { at: at(10, 999_999), frame: b"first" }, Captured { at: at(11, 7), frame: b"second" }];
            assert_eq!(packets, wanted, "big endian {big_endian}, nanoseconds {nanoseconds}");
        }
    }
}

#[test]
fn written_capture_reads_back() {
    let mut writer = PcapWriter::new(Vec::new()).unwrap();
    writer.write(Duration::new(3, 14), b"a frame").unwrap();
    writer.write(Duration::new(3, 15), &[0; 1514]).unwrap();
    let file = writer.finish().unwrap();
    let packets = read(&file).unwrap();
    assert_eq!(packets[0], Captured { at: Duration::new(3, 14), frame: b"a frame" });
    assert_eq!((packets[1].frame.len(), packets.len()), (1514, 2));
    assert_eq!(read(&PcapWriter::new(Vec::new()).unwrap().finish().unwrap()), Ok(Vec::new()));
}

#[test]
fn damaged_captures_are_refused_with_reason() {
    let good = file(false, false);
    let with = |at: usize, bytes: [u8; 4]| {
        let mut bad = good.clone();
        bad[at..at + 4].copy_from_slice(&bytes);
        read(&bad).unwrap_err().to_string()
    };
    assert_eq!(read(&[]), Err(PcapError::Short { got: 0 }));
    assert_eq!(read(&good[..23]), Err(PcapError::Short { got: 23 }));
    assert!(with(0, [0x0a, 0x0d, 0x0d, 0x0a]).contains("editcap"));
    assert!(with(0, *b"HTTP").contains("begins with 48545450"));
    assert!(with(20, [113, 0, 0, 0]).contains("link type: 113"));
    assert!(with(24 + 8, [0xff; 4]).contains("packet 1: invalid length: 4294967295 bytes"));
    assert!(with(24 + 12, [6, 0, 0, 0]).contains("tcpdump -s 0"));
    for cut in 25..good.len() {
        let whole = [24 + 16 + 5];
        match read(&good[..cut]) {
            Ok(packets) => assert!(whole.contains(&cut) && packets.len() == 1, "{cut}"),
            Err(error) => assert!(error.to_string().contains("cut off by the end of the file"), "{cut}: {error}"),
        }
    }
}

#[test]
fn fcs_field_does_not_change_link_type() {
    let mut file = file(false, true);
    file[23] = 0x40;
    assert_eq!(read(&file).unwrap().len(), 2);
}
