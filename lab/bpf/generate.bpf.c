// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Generates frames for the bench. BPF_PROG_TEST_RUN runs it with live frames. It writes the headers of every frame
// and sends it. The headers are written each time, because the kernel recycles pages and a forwarder has changed
// them. The payload stays unchanged.
//
// At a fixed rate, a frame that is not due yet is dropped: the loop never sleeps, so each frame leaves within a batch
// of its due time. Each frame carries its due time, for bpf/count.bpf.c.
//
// There are no includes, as in bpf/steer.bpf.c: the object depends only on this file and the compiler.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define SEC(name) __attribute__((section(name), used))

enum { XDP_DROP = 1 };
enum { BPF_MAP_TYPE_ARRAY = 2, BPF_MAP_TYPE_PERCPU_ARRAY = 6 };

struct xdp_md {
	u32 data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex;
};

static void *(*const map_lookup)(void *map, const void *key) = (void *)1;
static u64 (*const ktime)(void) = (void *)5;
static long (*const redirect)(u32 ifindex, u64 flags) = (void *)23;

struct map_def {
	u32 type, key_size, value_size, max_entries, flags;
};

// Number of frames sent so far, on each CPU.
struct map_def SEC("maps") MADE = { BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, 1, 0 };

// Order of user space. `trial` is written last: 0 sends nothing, a new number begins a trial.
struct order {
	u64 trial;
	// Nanoseconds between two frames, times 1024; 0 means the maximum rate.
	u64 step;
	// Number of frames, and number of the first frame, which selects the flow.
	u64 frames;
	u64 first;
};
// Progress of the trial.
struct progress {
	u64 trial;
	u64 sent;
	// Begin of the trial, time of its last frame, and delay of the latest frame.
	u64 start;
	u64 end;
	u64 late;
};

struct map_def SEC("maps") ORDER = { BPF_MAP_TYPE_ARRAY, 4, sizeof(struct order), 1, 0 };
struct map_def SEC("maps") PROGRESS = { BPF_MAP_TYPE_ARRAY, 4, sizeof(struct progress), 1, 0 };

// Whether ORDER applies; otherwise frames are sent without end.
SEC(".rodata") const volatile u32 ORDERED = 1;
// Ethernet, IPv4 and UDP header. The program fills in source address, both ports and both checksums.
SEC(".rodata") const volatile u16 HEAD[21] = { 1 };
// One's complement sums of HEAD's IPv4 header, and of its pseudo-header, UDP header and payload.
SEC(".rodata") const volatile u32 IP_SUM = 1;
SEC(".rodata") const volatile u32 UDP_SUM = 1;
// Source address (host order) and port of flow 0; each address has 16384 ports.
SEC(".rodata") const volatile u32 SOURCE = 1;
SEC(".rodata") const volatile u32 SOURCE_PORT = 1;
// Number of flows minus one; the number is a power of two.
SEC(".rodata") const volatile u32 FLOW_MASK = 1;
// First destination port, and number of ports used in alternation.
SEC(".rodata") const volatile u32 PORT = 1;
SEC(".rodata") const volatile u32 PORTS = 1;
SEC(".rodata") const volatile u32 IFINDEX = 1;

static inline __attribute__((always_inline)) u16 swap(u32 n)
{
	return __builtin_bswap16((u16)n);
}

static inline __attribute__((always_inline)) u16 fold(u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (u16)~sum;
}

SEC("xdp") int oxide_generate(struct xdp_md *context)
{
	u16 *frame = (void *)(u64)context->data;
	void *end = (void *)(u64)context->data_end;
	if ((void *)(frame + 21) > end)
		return XDP_DROP;
	u32 zero = 0;
	u64 *made = map_lookup(&MADE, &zero);
	if (!made)
		return XDP_DROP;
	u32 n = (u32)*made;
	u64 due = 0;
	if (ORDERED) {
		struct order *order = map_lookup(&ORDER, &zero);
		struct progress *progress = map_lookup(&PROGRESS, &zero);
		// The testbed's mark and the due time follow the headers.
		if (!order || !progress || (void *)(frame + 27) > end)
			return XDP_DROP;
		u64 now = ktime();
		if (!order->trial)
			return XDP_DROP;
		if (progress->trial != order->trial) {
			progress->trial = order->trial;
			progress->sent = progress->late = 0;
			progress->start = progress->end = now;
		}
		if (progress->sent >= order->frames)
			return XDP_DROP;
		due = now;
		if (order->step) {
			due = progress->start + (progress->sent * order->step >> 10);
			if (due > now)
				return XDP_DROP;
			if (now - due > progress->late)
				progress->late = now - due;
		}
		n = (u32)(order->first + progress->sent);
		progress->sent += 1;
		progress->end = now;
	}
	*made += 1;

	// An odd factor visits every flow once per round, and successive flows are not neighbours (RFC 4814).
	u32 flow = (n * 0x9e3779b1u) & FLOW_MASK;
	u32 source = SOURCE + (flow >> 14);
	u32 source_port = SOURCE_PORT + (flow & 16383);
	u32 port = PORT;
	if (PORTS > 1)
		port += n % PORTS;

#pragma clang loop unroll(full)
	for (int i = 0; i < 21; i++)
		frame[i] = HEAD[i];
	u32 high = source >> 16, low = source & 0xffff;
	frame[13] = swap(high);
	frame[14] = swap(low);
	frame[17] = swap(source_port);
	frame[18] = swap(port);
	frame[12] = swap(fold(IP_SUM + high + low));
	u32 udp = UDP_SUM + high + low + source_port + port;
	if (ORDERED) {
#pragma clang loop unroll(full)
		for (int i = 0; i < 4; i++) {
			u32 word = (u32)(due >> (48 - 16 * i)) & 0xffff;
			frame[23 + i] = swap(word);
			udp += word;
		}
	}
	u16 sum = fold(udp);
	frame[20] = swap(sum ? sum : 0xffff);
	return redirect(IFINDEX, 0);
}

SEC("license") const char LICENSE[] = "MIT OR Apache-2.0";
