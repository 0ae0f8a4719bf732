// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Measures the upper bound of the testbed: this XDP program forwards packets itself, and they never leave the kernel.
// UDP over IPv4 returns to its sender (XDP_TX), or leaves through another interface. All other packets go to the
// kernel.
//
// There are no includes, as in bpf/steer.bpf.c: the object depends only on this file and the compiler.

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

// Index of the interface that packets leave by; 0 returns them.
SEC(".rodata") const volatile u32 IFINDEX = 1;
// Destination and source MAC address of packets that leave through another interface.
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
