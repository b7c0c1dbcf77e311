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
            if progress.at == 0 && progress.compared > 0 {
                bar.set_prefix("comparing");
                bar.set_position(progress.compared);
            } else {
                if let Some(total) = progress.total {
                    bar.set_length(total);
                }
                bar.set_prefix("sending");
                bar.set_message(beside(progress));
                bar.set_position(progress.at);
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

/// What the bar does not show: what need not be sent, and what was sent in vain.
fn beside(progress: &Progress) -> String {
    let mut words = match progress.spared {
        0 => String::new(),
        spared => format!(", {} spared", text::bytes(spared)),
    };
    if progress.sent > progress.at {
        words.push_str(&format!(", {} sent in all", text::bytes(progress.sent)));
    }
    words
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates above are well formed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_says_what_is_spared_and_what_was_sent_in_vain() {
        let mut progress = Progress {
            at: 1 << 20,
            sent: 1 << 20,
            ..Progress::default()
        };
        assert_eq!(beside(&progress), "");
        progress.spared = 9 << 20;
        assert_eq!(beside(&progress), ", 9.0 MiB spared");
        progress.sent = 3 << 20;
        assert_eq!(beside(&progress), ", 9.0 MiB spared, 3.0 MiB sent in all");
        // What an earlier run sent counts as there, and was not sent by this one.
        progress.at = 5 << 20;
        assert_eq!(beside(&progress), ", 9.0 MiB spared");
    }

    #[test]
    fn the_bar_stands_where_this_attempt_is() {
        let mut live = Live::new(Paint::none());
        live.screen.set_draw_target(ProgressDrawTarget::hidden());
        live.upload(Some(10 << 20));
        let progress = Progress {
            at: 2 << 20,
            sent: 7 << 20,
            total: Some(4 << 20),
            ..Progress::default()
        };
        live.tick(&progress, std::iter::empty());
        let bar = live
            .upload
            .as_ref()
            .map(|bar| (bar.position(), bar.length()));
        assert_eq!(bar, Some((2 << 20, Some(4 << 20))));
        let bar = live.upload.as_ref().map(ProgressBar::message);
        assert_eq!(bar.as_deref(), Some(", 7.0 MiB sent in all"));
    }
}
