//! Typed outputs of programs that import nothing of ours: JSON lines in `/tmp/outputs.jsonl`.

use std::fs;
use std::io::Read as _;

use rustix::fs::{FileType, Mode, OFlags};
use serde::Deserialize;

use crate::additions::OutputBudget;
use crate::console::Console;
use crate::control::Control;
use crate::error::Error;
use crate::spec::Preopen;

/// The directory that the file is looked for in.
const DIRECTORY: &str = "/tmp";

/// The file's name.
const NAME: &str = "outputs.jsonl";

/// The most of the file that is read: several times what the outputs in it may have.
const MAX_BYTES: u64 = 1 << 20;

/// Where outputs may lie when the step has succeeded.
pub(super) struct File(fs::File);

impl File {
    /// Keeps the directory of outputs open, when the step has one.
    pub(super) fn find(preopens: &[Preopen]) -> Result<Option<Self>, Error> {
        preopens
            .iter()
            .find(|preopen| preopen.guest_path == DIRECTORY)
            .map(|preopen| preopen.directory.try_clone().map(Self))
            .transpose()
            .map_err(|error| Error::host(format!("cannot keep {DIRECTORY} open: {error}")))
    }

    /// The file's text; `None` when there is none.
    fn text(&self) -> Result<Option<String>, String> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.0, NAME, flags, Mode::empty()) {
            Ok(file) => file,
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        let stat = rustix::fs::fstat(&file).map_err(|error| error.to_string())?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err("it is not a regular file".to_owned());
        }
        let mut bytes = Vec::new();
        fs::File::from(file)
            .take(MAX_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| error.to_string())?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(format!("it has more than {MAX_BYTES} bytes"));
        }
        String::from_utf8(bytes)
            .map(Some)
            .map_err(|_| "it is not UTF-8".to_owned())
    }
}

#[derive(Deserialize)]
struct Line {
    name: String,
    value: serde_json::Value,
}

/// Says the outputs in the file. What is wrong with it becomes a warning: the step has succeeded.
pub(super) async fn read(
    file: &File,
    console: &Console,
    budget: &mut OutputBudget,
    control: &Control,
) {
    let said = async {
        let text = match file.text() {
            Ok(Some(text)) => text,
            Ok(None) => return,
            Err(message) => {
                console
                    .warn(format!("{DIRECTORY}/{NAME} is not read: {message}"))
                    .await;
                return;
            }
        };
        for (index, line) in text
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty())
        {
            let parsed = serde_json::from_str::<Line>(line)
                .map_err(|error| format!("it is not {{\"name\", \"value\"}}: {error}"))
                .and_then(|line| budget.charge(&line.name, &line.value).map(|()| line));
            match parsed {
                Ok(Line { name, value }) => console.output(name, value).await,
                Err(message) => {
                    console
                        .warn(format!(
                            "line {} of {DIRECTORY}/{NAME} is left out: {message}",
                            index + 1
                        ))
                        .await;
                }
            }
        }
    };
    tokio::select! {
        biased;
        _ = control.wait() => {}
        () = said => {}
    }
}
