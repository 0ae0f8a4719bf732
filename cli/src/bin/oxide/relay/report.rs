//! The report file: the status as JSON, once a second and at the end, by a thread of its own. A disk that is full or does
//! not answer costs reports, and nothing else.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use oxide::engine::EngineStatus;

/// How often the report is written.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// For the last report to be written: the end of the process does not wait longer for a disk.
const LAST_WITHIN: Duration = Duration::from_secs(5);

/// Writes reports until it is told the last status.
pub(super) struct Reporter {
    last: flume::Sender<EngineStatus>,
    /// Disconnected when the last report is written.
    done: flume::Receiver<()>,
}

impl Reporter {
    /// Writes what `status` returns to `path` from now on.
    ///
    /// # Errors
    /// The kernel gave no thread.
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
    /// Why the last report was not written; logged once.
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
                tracing::warn!(%file, error, "report not written; traffic goes on, and it is tried again every second");
                self.failed = Some(error);
            }
        }
    }
}

/// Whole or not at all: a reader never sees half a report.
fn write(path: &Path, status: &EngineStatus) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(status)?;
    let beside = path.with_extension("tmp");
    let written = std::fs::File::create(&beside).and_then(|mut file| file.write_all(&text));
    if let Err(error) = written.and_then(|()| std::fs::rename(&beside, path)) {
        // What there is of it takes room on a full disk.
        let _ = std::fs::remove_file(&beside);
        return Err(error);
    }
    Ok(())
}
