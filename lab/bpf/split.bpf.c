// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Samples the time of a core. A timer (perf's cpu-clock) runs it, and it counts whether the core was in user mode, in
// the kernel (with interrupts), or idle. Its resolution is much finer than the kernel's own ticks.
//
// There are no includes, as in bpf/steer.bpf.c: the object depends only on this file and the compiler.

typedef unsigned int u32;
typedef unsigned long long u64;

#define SEC(name) __attribute__((section(name), used))

enum { BPF_MAP_TYPE_PERCPU_ARRAY = 6 };
enum { USER, KERNEL, IDLE, SAMPLES_END };
enum { X86_64, AARCH64 };

static void *(*const map_lookup)(void *map, const void *key) = (void *)1;
static u64 (*const current_pid_tgid)(void) = (void *)14;

struct map_def {
	u32 type, key_size, value_size, max_entries, flags;
};

struct map_def SEC("maps") SAMPLES = { BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, SAMPLES_END, 0 };

// Architecture of the registers in the context.
SEC(".rodata") const volatile u32 MACHINE = 2;

SEC("perf_event") int oxide_split(u64 *registers)
{
	u32 which;
	if (!(u32)current_pid_tgid())
		which = IDLE;
	else if (MACHINE == X86_64)
		// The low bits of cs are the privilege level (arch/x86/include/asm/ptrace.h, `struct pt_regs`).
		which = registers[17] & 3 ? USER : KERNEL;
	else
		// The low bits of pstate are 0 in user mode (arch/arm64/include/asm/ptrace.h).
		which = registers[33] & 15 ? KERNEL : USER;
	u64 *samples = map_lookup(&SAMPLES, &which);
	if (samples)
		*samples += 1;
	return 0;
}

SEC("license") const char LICENSE[] = "MIT OR Apache-2.0";
