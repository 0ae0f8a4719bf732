// SPDX-License-Identifier: MIT OR Apache-2.0
//
// This program decides which received packets go to their queue's AF_XDP socket. It has a list of destinations (address and
// UDP port), and a list of destination prefixes for packets of any protocol. All other packets go to the kernel unchanged.
// docs/steering.md has the table of verdicts and the build recipe; tests/steering runs both.
//
// It has no includes. The required part of the kernel's stable ABI (include/uapi/linux/bpf.h) is repeated here, so that the
// object depends only on this file and the compiler. Bounds checks have the simplest form: each is just before the reads it
// covers, with constant sizes, so that no verifier requires CAP_PERFMON. docs/steering.md lists the kernels that load it.

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))

enum { XDP_PASS = 2, XDP_REDIRECT = 4 };
enum {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_LPM_TRIE = 11,
	BPF_MAP_TYPE_XSKMAP = 17
};
enum { BPF_F_NO_PREALLOC = 1, BPF_F_RDONLY_PROG = 128 };

struct xdp_md {
	u32 data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex;
};

static void *(*const map_lookup)(void *map, const void *key) = (void *)1;
static long (*const map_update)(void *map, const void *key, const void *value, u64 flags) = (void *)2;
static long (*const map_delete)(void *map, const void *key) = (void *)3;
static u64 (*const now_ns)(void) = (void *)5;
static long (*const redirect_map)(void *map, u64 key, u64 flags) = (void *)51;

// The legacy maps section, which the loader reads without BTF.
struct map_def {
	u32 type, key_size, value_size, max_entries, flags;
};

// Holds an address in network order; IPv4 a.b.c.d is ::ffff:a.b.c.d. It is written to the stack in two halves. Without
// CAP_PERFMON, kernel 6.1 refuses a partial write to eight bytes of which it knows another part ("attempt to corrupt
// spilled pointer on stack").
struct address {
	u64 high, low;
};

enum { MAPPED = 0xffff0000 };
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the object is made for little-endian machines"
#endif

struct ports {
	u8 bits[8192]; // UDP port p: bit p % 8 of byte p / 8
};

// Holds the listed ports of each address: one look-up and one bit test for any number of ports.
struct map_def SEC("maps") LISTED = {
	BPF_MAP_TYPE_HASH, sizeof(struct address), sizeof(struct ports), 1024, BPF_F_NO_PREALLOC | BPF_F_RDONLY_PROG,
};

// Holds the key of a prefix: its length in the upper half of the first word, then the address. The kernel's key begins at
// that upper half, so that the stack is written in units of eight bytes.
struct prefix {
	u64 length;
	struct address address;
};

// Holds the destination prefixes whose packets of any protocol go to the sockets.
struct map_def SEC("maps") PREFIXES = {
	BPF_MAP_TYPE_LPM_TRIE, 4 + sizeof(struct address), 8, 1024, BPF_F_NO_PREALLOC | BPF_F_RDONLY_PROG,
};

// Identifies a datagram that was cut into fragments. `id` has bit 32 set for IPv6, whose addresses may look mapped.
struct datagram {
	struct address source, destination;
	u64 id;
};

// Holds the listed datagrams whose first fragment went to a socket, and the time until which the others follow it (ns of
// the monotonic clock). The kernel evicts the least recently used entry.
struct map_def SEC("maps") FRAGMENTED = { BPF_MAP_TYPE_LRU_HASH, sizeof(struct datagram), 8, 4096, 0 };

// Maps an RX queue index to an AF_XDP socket. The kernel empties an entry when its socket is closed.
struct map_def SEC("maps") SOCKETS = { BPF_MAP_TYPE_XSKMAP, 4, 4, 256, 0 };

// Counts packets by `enum verdict`.
struct map_def SEC("maps") COUNTERS = { BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, 11, 0 };

// The action for a listed packet whose queue has no socket. The loader writes it, then it is frozen.
volatile const u32 FALLBACK = XDP_PASS;

// The order is that of `Verdict` in src/xdp/steering/counters.rs.
enum verdict {
	REDIRECTED,
	NO_SOCKET,
	MALFORMED,
	MULTICAST,
	OTHER_ETHERTYPE,
	VLAN,
	IPV4_OPTIONS,
	IPV6_EXTENSION,
	FRAGMENT,
	NOT_UDP,
	NOT_LISTED,
	LISTED_UDP, // Or in a prefix. Not counted: it becomes REDIRECTED or NO_SOCKET.
};

enum { PROTOCOL_UDP = 17, IPV6_FRAGMENT = 44 };

// The time for which later fragments follow their first one. Afterwards, an identification may name another datagram.
#define FRAGMENTS_FOLLOW_NS 2000000000ull

// Numbers of two bytes are read byte by byte, because the verifier forgets their range at a byte swap.
struct ethernet {
	u8 destination[6], source[6], type[2];
};

struct ipv4 {
	u8 version_ihl, tos, total_length[2], id[2], fragment[2], ttl, protocol, checksum[2];
	u32 source, destination;
};

struct ipv6 {
	u8 version_class, class_flow, flow[2], payload_length[2], next_header, hop_limit;
	u32 source[4], destination[4];
};

struct ipv6_fragment {
	u8 next_header, reserved, offset[2], id[4];
};

struct udp {
	u8 source[2], destination[2], length[2], checksum[2];
};

INLINE u64 halves(u32 first, u32 second)
{
	return first | (u64)second << 32;
}

INLINE u32 be16(const u8 bytes[2])
{
	return (u32)bytes[0] << 8 | bytes[1];
}

INLINE enum verdict look_up(const struct address *destination, const struct udp *udp)
{
	const struct ports *ports = map_lookup(&LISTED, destination);
	if (!ports)
		return NOT_LISTED;
	u32 byte = (u32)udp->destination[0] << 5 | udp->destination[1] >> 3; // port / 8
	// Verifiers before about 6.10 forget the range at the OR of two unknown values. So the value is masked just before its
	// use. The assembly hides its range from the compiler, which would otherwise remove the mask.
	__asm__ volatile("" : "+r"(byte));
	byte &= sizeof(ports->bits) - 1;
	u32 bit = udp->destination[1] & 7; // port % 8
	return ports->bits[byte] >> bit & 1 ? LISTED_UDP : NOT_LISTED;
}

// A first fragment has ports: where they are listed, the later fragments follow it. Where they are not, the identification
// is in use by a datagram for the kernel.
INLINE enum verdict first_fragment(const struct datagram *datagram, enum verdict verdict)
{
	if (verdict != LISTED_UDP) {
		map_delete(&FRAGMENTED, datagram);
		return FRAGMENT;
	}
	u64 until = now_ns() + FRAGMENTS_FOLLOW_NS;
	map_update(&FRAGMENTED, datagram, &until, 0);
	return LISTED_UDP;
}

INLINE enum verdict later_fragment(const struct datagram *datagram)
{
	const u64 *until = map_lookup(&FRAGMENTED, datagram);
	return until && now_ns() < *until ? LISTED_UDP : FRAGMENT;
}

INLINE enum verdict ipv4(const struct ipv4 *ip, const void *end)
{
	if ((const void *)(ip + 1) > end)
		return MALFORMED;
	u32 words = ip->version_ihl & 15;
	if (ip->version_ihl >> 4 != 4 || words < 5)
		return MALFORMED;
	if (words > 5)
		return IPV4_OPTIONS;
	u32 fragment = be16(ip->fragment) & 0x3fff; // more fragments, or an offset
	if (ip->protocol != PROTOCOL_UDP)
		return fragment ? FRAGMENT : NOT_UDP;
	if (fragment & 0x1fff) {
		struct datagram datagram = {
			{ 0, halves(MAPPED, ip->source) }, { 0, halves(MAPPED, ip->destination) }, be16(ip->id)
		};
		return later_fragment(&datagram);
	}
	const struct udp *udp = (const void *)(ip + 1);
	if ((const void *)(udp + 1) > end)
		return MALFORMED;
	// The engine checks whether the frame holds this number of bytes. A comparison of a variable length with the end of
	// the frame needs pointer arithmetic, and that needs CAP_PERFMON.
	if (be16(ip->total_length) < sizeof(*ip) + sizeof(*udp))
		return MALFORMED;
	struct address to = { 0, halves(MAPPED, ip->destination) };
	enum verdict verdict = look_up(&to, udp);
	if (fragment) {
		struct datagram datagram = { { 0, halves(MAPPED, ip->source) }, to, be16(ip->id) };
		return first_fragment(&datagram, verdict);
	}
	return verdict;
}

// Hop-by-hop, routing, ESP, AH, destination options, mobility, HIP, shim6 (IANA's list, RFC 7045).
INLINE int is_extension(u8 header)
{
	return header == 0 || header == 43 || header == 50 || header == 51 || header == 60 || header == 135 ||
	       header == 139 || header == 140;
}

INLINE enum verdict ipv6_fragment(const struct ipv6 *ip, const void *end)
{
	const struct ipv6_fragment *header = (const void *)(ip + 1);
	if ((const void *)(header + 1) > end)
		return MALFORMED;
	if (header->next_header != PROTOCOL_UDP)
		return FRAGMENT;
	struct datagram datagram = {
		{ halves(ip->source[0], ip->source[1]), halves(ip->source[2], ip->source[3]) },
		{ halves(ip->destination[0], ip->destination[1]), halves(ip->destination[2], ip->destination[3]) },
		1ull << 32 | be16(header->id) << 16 | be16(header->id + 2),
	};
	if (be16(header->offset) & 0xfff8)
		return later_fragment(&datagram);
	const struct udp *udp = (const void *)(header + 1);
	if ((const void *)(udp + 1) > end)
		return MALFORMED;
	if (be16(ip->payload_length) < sizeof(*header) + sizeof(*udp))
		return MALFORMED;
	enum verdict verdict = NOT_LISTED;
	if (datagram.destination.high != 0 || (u32)datagram.destination.low != MAPPED) // as below
		verdict = look_up(&datagram.destination, udp);
	return first_fragment(&datagram, verdict);
}

INLINE enum verdict ipv6(const struct ipv6 *ip, const void *end)
{
	if ((const void *)(ip + 1) > end)
		return MALFORMED;
	if (ip->version_class >> 4 != 6)
		return MALFORMED;
	if (ip->next_header == IPV6_FRAGMENT)
		return ipv6_fragment(ip, end);
	if (is_extension(ip->next_header))
		return IPV6_EXTENSION;
	if (ip->next_header != PROTOCOL_UDP)
		return NOT_UDP;
	const struct udp *udp = (const void *)(ip + 1);
	if ((const void *)(udp + 1) > end)
		return MALFORMED;
	if (be16(ip->payload_length) < sizeof(*udp))
		return MALFORMED;
	struct address to = { halves(ip->destination[0], ip->destination[1]), halves(ip->destination[2], ip->destination[3]) };
	// No valid packet has the destination ::ffff:a.b.c.d. Here it is the key of an IPv4 address.
	if (to.high == 0 && (u32)to.low == MAPPED)
		return NOT_LISTED;
	return look_up(&to, udp);
}

INLINE enum verdict judge(struct xdp_md *packet)
{
	const struct ethernet *frame = (const void *)(u64)packet->data;
	const void *end = (const void *)(u64)packet->data_end;
	if ((const void *)(frame + 1) > end)
		return MALFORMED;
	if (frame->destination[0] & 1) // The group bit marks multicast and broadcast.
		return MULTICAST;
	switch (be16(frame->type)) {
	case 0x0800:
		return ipv4((const void *)(frame + 1), end);
	case 0x86dd:
		return ipv6((const void *)(frame + 1), end);
	case 0x8100:
	case 0x88a8:
	case 0x9100:
		return VLAN;
	default:
		return OTHER_ETHERTYPE;
	}
}

// Returns whether the destination is in a listed prefix. It is called only for packets whose port is not listed.
INLINE int in_prefix(struct xdp_md *packet)
{
	const struct ethernet *frame = (const void *)(u64)packet->data;
	const void *end = (const void *)(u64)packet->data_end;
	if ((const void *)(frame + 1) > end)
		return 0;
	struct prefix key = { 128ull << 32, { 0, 0 } };
	if (be16(frame->type) == 0x0800) {
		const struct ipv4 *ip = (const void *)(frame + 1);
		if ((const void *)(ip + 1) > end)
			return 0;
		key.address.low = halves(MAPPED, ip->destination);
	} else {
		const struct ipv6 *ip = (const void *)(frame + 1);
		if ((const void *)(ip + 1) > end)
			return 0;
		key.address.high = halves(ip->destination[0], ip->destination[1]);
		key.address.low = halves(ip->destination[2], ip->destination[3]);
		if (key.address.high == 0 && (u32)key.address.low == MAPPED)
			return 0;
	}
	return map_lookup(&PREFIXES, (const u8 *)&key + 4) != 0;
}

SEC("xdp") int oxide_steer(struct xdp_md *packet)
{
	u32 verdict = judge(packet);
	if (verdict >= IPV4_OPTIONS && verdict <= NOT_LISTED && in_prefix(packet))
		verdict = LISTED_UDP;
	int action = XDP_PASS;
	if (verdict == LISTED_UDP) {
		// The low bits of the flags are the action for an empty entry.
		action = redirect_map(&SOCKETS, packet->rx_queue_index, FALLBACK);
		verdict = action == XDP_REDIRECT ? REDIRECTED : NO_SOCKET;
	}
	u64 key = verdict; // The key has 4 bytes; 8 are written for the reason given at `struct address`.
	u64 *packets = map_lookup(&COUNTERS, &key);
	if (packets)
		*packets += 1; // Per CPU; another packet on the CPU cannot preempt it.
	return action;
}

char SEC("license") LICENSE[] = "MIT OR Apache-2.0";
