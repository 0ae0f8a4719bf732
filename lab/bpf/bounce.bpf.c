// SPDX-License-Identifier: MIT OR Apache-2.0
//
// The bound of the lab: packets are forwarded by the XDP program itself and never leave the kernel. UDP over IPv4 goes back
// where it came from (XDP_TX), or on by another interface; all else is the kernel's.
//
// No includes, as bpf/steer.bpf.c: the object depends on this file and the compiler alone.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define SEC(name) __attribute__((section(name), used))

enum { XDP_PASS = 2, XDP_TX = 3 };

struct xdp_md {
	u32 data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex;
};

static long (*const redirect)(u32 ifindex, u64 flags) = (void *)23;

// Where packets leave; 0 for where they came.
SEC(".rodata") const volatile u32 IFINDEX = 1;
// Destination and source MAC address of what leaves elsewhere.
SEC(".rodata") const volatile u16 MACS[6] = { 1 };

SEC("xdp") int oxide_bounce(struct xdp_md *context)
{
	u16 *frame = (void *)(u64)context->data;
	void *end = (void *)(u64)context->data_end;
	if ((void *)(frame + 21) > end || frame[6] != 0x0008 || ((u8 *)frame)[23] != 17)
		return XDP_PASS;
	if (IFINDEX) {
#pragma clang loop unroll(full)
		for (int i = 0; i < 6; i++)
			frame[i] = MACS[i];
		return redirect(IFINDEX, 0);
	}
#pragma clang loop unroll(full)
	for (int i = 0; i < 3; i++) {
		u16 was = frame[i];
		frame[i] = frame[3 + i];
		frame[3 + i] = was;
	}
	return XDP_TX;
}

SEC("license") const char LICENSE[] = "MIT OR Apache-2.0";
