// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Runs at the far side of the bench. It counts and drops UDP over IPv4 whose payload begins with the testbed's mark.
// All other packets (ARP, a peer's own traffic) are counted and go to the kernel. For a packet with a due time
// (bpf/generate.bpf.c) it also records the delay.
//
// There are no includes, as in bpf/steer.bpf.c: the object depends only on this file and the compiler.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define SEC(name) __attribute__((section(name), used))

enum { XDP_DROP = 1, XDP_PASS = 2 };
enum { BPF_MAP_TYPE_PERCPU_ARRAY = 6 };
enum { PACKETS, BYTES, OTHERS, COUNTERS_END };
// The table has 128 buckets of one nanosecond, then 64 for each octave up to 2^32.
enum { TIMES_END = 26 * 64 + 64 };

struct xdp_md {
	u32 data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex;
};

static void *(*const map_lookup)(void *map, const void *key) = (void *)1;
static u64 (*const ktime)(void) = (void *)5;

struct map_def {
	u32 type, key_size, value_size, max_entries, flags;
};

struct map_def SEC("maps") COUNTERS = { BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, COUNTERS_END, 0 };

struct map_def SEC("maps") TIMES = { BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, TIMES_END, 0 };

static inline __attribute__((always_inline)) void add(u32 which, u64 amount)
{
	u64 *counter = map_lookup(&COUNTERS, &which);
	if (counter)
		*counter += amount;
}

// Returns the bucket of a time; lab/src/times.rs has the inverse function.
static inline __attribute__((always_inline)) u32 bucket(u64 ns)
{
	u32 shift = 0;
	if (ns >> 32)
		ns = 0xffffffff;
	if (ns >> 23)
		ns >>= 16, shift += 16;
	if (ns >> 15)
		ns >>= 8, shift += 8;
	if (ns >> 11)
		ns >>= 4, shift += 4;
	if (ns >> 9)
		ns >>= 2, shift += 2;
	if (ns >> 8)
		ns >>= 1, shift += 1;
	if (ns >> 7)
		ns >>= 1, shift += 1;
	return shift * 64 + (u32)ns;
}

SEC("xdp") int oxide_count(struct xdp_md *context)
{
	u8 *frame = (void *)(u64)context->data;
	u8 *end = (void *)(u64)context->data_end;
	if (frame + 46 > end)
		goto other;
	if (*(u16 *)(frame + 12) != 0x0008 || frame[14] != 0x45 || frame[23] != 17)
		goto other;
	// The mark is "OXBE", as in lab/src/frame.rs.
	if (*(u32 *)(frame + 42) != 0x4542584f)
		goto other;
	add(PACKETS, 1);
	add(BYTES, (u64)(context->data_end - context->data));
	if (frame + 54 > end)
		return XDP_DROP;
	u64 due = 0;
#pragma clang loop unroll(full)
	for (int i = 0; i < 4; i++)
		due = due << 16 | __builtin_bswap16(*(u16 *)(frame + 46 + 2 * i));
	if (due) {
		u64 now = ktime();
		u32 which = bucket(now > due ? now - due : 0);
		u64 *count = map_lookup(&TIMES, &which);
		if (count)
			*count += 1;
	}
	return XDP_DROP;
other:
	add(OTHERS, 1);
	return XDP_PASS;
}

SEC("license") const char LICENSE[] = "MIT OR Apache-2.0";
