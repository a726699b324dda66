//! SIGINT and SIGTERM stop the work; the second of them ends the process at once.

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::cancel::{Cancel, Stop};

/// Stops `cancel` on the first signal. Children notice when their threads do; on a second signal they are killed, and
/// the process exits with the signal's code.
pub(crate) fn stop_on_signals(cancel: &Cancel) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let cancel = cancel.clone();
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            let stop = if signal == SIGTERM { Stop::Terminated } else { Stop::Interrupted };
            if cancel.stopped().is_some() {
                crate::process::kill_children();
                std::process::exit(i32::from(stop.kind().code()));
            }
            cancel.stop(stop);
        }
    })?;
    Ok(())
}
