//! Writes the report file: the status as JSON, once a second and at the end, in its own thread. If the disk is full
//! or does not answer, only reports are lost.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use oxide::engine::EngineStatus;

/// Interval between two reports.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// Maximum wait for the last report: the exit does not wait longer for a disk.
const LAST_WITHIN: Duration = Duration::from_secs(5);

/// Writes reports until it receives the last status.
pub(super) struct Reporter {
    last: flume::Sender<EngineStatus>,
    /// This channel is disconnected when the last report is written.
    done: flume::Receiver<()>,
}

impl Reporter {
    /// Starts to write the result of `status` to `path`.
    ///
    /// # Errors
    /// Returns the kernel's error if it creates no thread.
    pub(super) fn start(path: &Path, status: impl Fn() -> EngineStatus + Send + 'static) -> io::Result<Self> {
        let (last, last_status) = flume::bounded(1);
        let (end, done) = flume::bounded(0);
        let mut file = ReportFile { path: path.to_owned(), failed: None };
        std::thread::Builder::new().name("oxide-report".to_owned()).spawn(move || {
            let _end: flume::Sender<()> = end;
            file.write(&status());
            loop {
                match last_status.recv_timeout(REPORT_EVERY) {
                    Err(flume::RecvTimeoutError::Timeout) => file.write(&status()),
                    Ok(last) => return file.write(&last),
                    Err(flume::RecvTimeoutError::Disconnected) => return,
                }
            }
        })?;
        Ok(Self { last, done })
    }

    /// Writes the last report.
    pub(super) fn finish(self, last: EngineStatus) {
        let _ = self.last.send(last);
        if matches!(self.done.recv_timeout(LAST_WITHIN), Err(flume::RecvTimeoutError::Timeout)) {
            tracing::warn!(within = ?LAST_WITHIN, "last report not written in time");
        }
    }
}

struct ReportFile {
    path: PathBuf,
    /// Last error, so that the same error is logged once.
    failed: Option<String>,
}

impl ReportFile {
    fn write(&mut self, status: &EngineStatus) {
        let file = self.path.display();
        match write(&self.path, status).map_err(|error| error.to_string()) {
            Ok(()) if self.failed.take().is_some() => tracing::info!(%file, "report written again"),
            Ok(()) => {}
            Err(error) if self.failed.as_ref() == Some(&error) => {}
            Err(error) => {
                tracing::warn!(%file, error, "report not written; traffic continues; next attempt in a second");
                self.failed = Some(error);
            }
        }
    }
}

/// Writes the report to another file and renames it, so that a reader never sees half a report.
fn write(path: &Path, status: &EngineStatus) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(status)?;
    let temporary = path.with_extension("tmp");
    let written = std::fs::File::create(&temporary).and_then(|mut file| file.write_all(&text));
    if let Err(error) = written.and_then(|()| std::fs::rename(&temporary, path)) {
        // A partial file would use space on a full disk.
        let _ = std::fs::remove_file(&temporary);
        return Err(error);
    }
    Ok(())
}
