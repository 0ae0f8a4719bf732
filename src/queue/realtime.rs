//! Sets SCHED_FIFO for a queue's thread. It is opt-in and for isolated cores only. On a shared core, a spinning FIFO
//! thread is stopped for 51 ms every second, because the scheduler reserves time for other tasks.

use thread_priority::{
    RealtimeThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};

/// Gives the calling thread SCHED_FIFO with `priority` (1 to 49; sched(7)).
///
/// # Errors
/// Returns a message with the remedy.
pub(super) fn set_fifo(priority: u8) -> Result<(), String> {
    let value = ThreadPriorityValue::try_from(priority)?;
    let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
    set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Crossplatform(value), policy).map_err(|e| {
        format!(
            "engine.realtime: the kernel refused SCHED_FIFO priority {priority}: {e:?}; expected CAP_SYS_NICE or \
             LimitRTPRIO={priority}, and a cgroup with real-time bandwidth; to fix: add these, or set realtime = false"
        )
    })
}
