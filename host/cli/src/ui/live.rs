//! The moving lines at the foot of a terminal: the upload's bar, and a clock for every running step.

use std::io::{self, Write};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::text::{self, Paint};
use super::transcript::Running;
use crate::api::upload::Progress;

/// Redraws in a second: smooth enough, and no work to speak of.
const REDRAWS: u8 = 10;

/// What moves.
#[derive(Debug)]
pub(super) struct Live {
    screen: MultiProgress,
    paint: Paint,
    upload: Option<ProgressBar>,
    steps: Vec<(String, ProgressBar)>,
}

impl Live {
    pub(super) fn new(paint: Paint) -> Live {
        Live {
            screen: MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(REDRAWS)),
            paint,
            upload: None,
            steps: Vec::new(),
        }
    }

    /// The upload's bar; without a total, only what has gone and how fast.
    pub(super) fn upload(&mut self, total: Option<u64>) {
        if let Some(before) = self.upload.take() {
            before.finish_and_clear();
            self.screen.remove(&before);
        }
        let bar = match total {
            Some(total) => ProgressBar::new(total),
            None => ProgressBar::no_length(),
        };
        // Before anything is set: a bar that stands alone draws itself where nobody clears it.
        let bar = self.screen.add(bar);
        let colour = if self.paint.colours() { ".cyan" } else { "" };
        let template = if total.is_some() {
            format!(
                "{{prefix:<10}} {{bar:32{colour}}} {{binary_bytes}} of {{binary_total_bytes}}, \
                 {{binary_bytes_per_sec}}, {{eta}} left{{msg}}"
            )
        } else {
            "{prefix:<10} {binary_bytes}, {binary_bytes_per_sec}".to_owned()
        };
        bar.set_style(style(&template).progress_chars("=> "));
        bar.set_prefix("sending");
        self.upload = Some(bar);
    }

    /// Brings the bar and the clocks to where things are.
    pub(super) fn tick<'a>(
        &mut self,
        progress: &Progress,
        running: impl Iterator<Item = &'a Running>,
    ) {
        let running: Vec<&Running> = running.collect();
        if progress.complete {
            if let Some(bar) = self.upload.take() {
                bar.finish_and_clear();
                self.screen.remove(&bar);
            }
        } else if let Some(bar) = &self.upload {
            if progress.sent == 0 && progress.compared > 0 {
                bar.set_prefix("comparing");
                bar.set_position(progress.compared);
            } else {
                if let Some(total) = progress.total {
                    bar.set_length(total);
                }
                bar.set_prefix("sending");
                bar.set_message(match progress.spared {
                    0 => String::new(),
                    spared => format!(", {} spared", text::bytes(spared)),
                });
                bar.set_position(progress.sent);
            }
        }

        let screen = &self.screen;
        self.steps.retain(|(step, bar)| {
            let keep = running.iter().any(|running| running.step == *step);
            if !keep {
                bar.finish_and_clear();
                screen.remove(bar);
            }
            keep
        });
        for running in &running {
            if !self.steps.iter().any(|(step, _)| *step == running.step) {
                let colour = if self.paint.colours() { ".cyan" } else { "" };
                let bar = self.screen.add(ProgressBar::new_spinner());
                bar.set_style(style(&format!(
                    "{{prefix:<10{colour}}} {{spinner}} {{wide_msg}}"
                )));
                bar.set_prefix(text::escaped(&running.step));
                self.steps.push((running.step.clone(), bar));
            }
        }
        for (step, bar) in &self.steps {
            let Some(running) = running.iter().find(|running| running.step == *step) else {
                continue;
            };
            let mut message = text::clock(running.since.elapsed());
            if let Some(progress) = &running.progress {
                message.push_str("  ");
                message.push_str(progress);
            }
            bar.set_message(message);
            bar.tick();
        }
    }

    /// Writes whole lines above what moves.
    pub(super) fn print(&mut self, lines: &str) -> io::Result<()> {
        self.screen
            .suspend(|| io::stderr().lock().write_all(lines.as_bytes()))
    }

    /// Takes everything that moves away.
    pub(super) fn clear(&mut self) {
        if let Some(bar) = self.upload.take() {
            bar.finish_and_clear();
        }
        for (_, bar) in self.steps.drain(..) {
            bar.finish_and_clear();
        }
        let _ = self.screen.clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates above are well formed")
}
