// SPDX-License-Identifier: MIT OR Apache-2.0
//
// The far side of the bench: UDP over IPv4 whose payload begins with the lab's mark is counted and dropped;
// everything else (ARP, a peer's own traffic) is counted and goes to the kernel.
//
// No includes, as bpf/steer.bpf.c: the object depends on this file and the compiler alone.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define SEC(name) __attribute__((section(name), used))

enum { XDP_DROP = 1, XDP_PASS = 2 };
enum { BPF_MAP_TYPE_PERCPU_ARRAY = 6 };
enum { PACKETS, BYTES, OTHERS, COUNTERS_END };

struct xdp_md {
	u32 data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex;
};

static void *(*const map_lookup)(void *map, const void *key) = (void *)1;

struct map_def {
	u32 type, key_size, value_size, max_entries, flags;
};

struct map_def SEC("maps") COUNTERS = { BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, COUNTERS_END, 0 };

static inline __attribute__((always_inline)) void add(u32 which, u64 amount)
{
	u64 *counter = map_lookup(&COUNTERS, &which);
	if (counter)
		*counter += amount;
}

SEC("xdp") int oxide_count(struct xdp_md *context)
{
	u8 *frame = (void *)(u64)context->data;
	u8 *end = (void *)(u64)context->data_end;
	if (frame + 46 > end)
		goto other;
	if (*(u16 *)(frame + 12) != 0x0008 || frame[14] != 0x45 || frame[23] != 17)
		goto other;
	// "OXBE", as lab/src/frame.rs writes it.
	if (*(u32 *)(frame + 42) != 0x4542584f)
		goto other;
	add(PACKETS, 1);
	add(BYTES, (u64)(context->data_end - context->data));
	return XDP_DROP;
other:
	add(OTHERS, 1);
	return XDP_PASS;
}

SEC("license") const char LICENSE[] = "MIT OR Apache-2.0";
