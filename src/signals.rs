//! SIGINT and SIGTERM stop the work; a second signal ends the process at once.

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::cancel::{Cancel, Stop};

/// The first signal stops `cancel`. The second one kills the children and exits with the signal's code.
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
