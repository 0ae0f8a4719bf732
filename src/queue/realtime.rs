//! SCHED_FIFO for a queue's thread: opt-in, for isolated cores only. A spinning FIFO thread on a core
//! that others need loses a 51 ms gap every second to the scheduler's reserve for them.

use thread_priority::{
    RealtimeThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};

/// Gives the calling thread SCHED_FIFO with `priority` (1 to 49; sched(7)).
///
/// # Errors
/// In words, with the mend.
pub(super) fn set_fifo(priority: u8) -> Result<(), String> {
    let value = ThreadPriorityValue::try_from(priority)?;
    let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
    set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Crossplatform(value), policy).map_err(|e| {
        format!(
            "SCHED_FIFO priority {priority} refused ({e:?}): it needs CAP_SYS_NICE or LimitRTPRIO={priority}, and a \
             cgroup with real-time bandwidth; or write realtime = false"
        )
    })
}
