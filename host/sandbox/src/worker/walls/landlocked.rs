//! Landlock: which files a worker may open.

use std::fmt;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, PathBeneath,
    Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetStatus, Scope,
};
use serde::{Deserialize, Serialize};

use super::{Landlock, Needs};
use crate::spec::Access;

/// The newest version of Landlock whose rights are known here. Each newer kernel handles some more of them.
const NEWEST: ABI = ABI::V6;

/// The oldest version that counts as a wall: the first that also closes TCP, and the third that stops truncation.
const OLDEST: i32 = 4;

/// What Landlock does for workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum LandlockStatus {
    /// Confines every worker to its directories, with the kernel's version of it.
    Enforced {
        /// The version of the kernel's interface.
        abi: i32,
    },
    /// The kernel has an old version, which leaves gaps.
    Partial {
        /// The version of the kernel's interface.
        abi: i32,
    },
    /// The kernel has none, or has it switched off.
    Missing,
    /// It is not used, by the operator's choice.
    Off,
}

impl LandlockStatus {
    /// Whether workers are confined as the threat model assumes.
    #[must_use]
    pub fn is_enforced(self) -> bool {
        matches!(self, Self::Enforced { .. })
    }
}

impl fmt::Display for LandlockStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Enforced { abi } => write!(f, "enforced (ABI {abi})"),
            Self::Partial { abi } => write!(
                f,
                "only in part: the kernel has ABI {abi}, and ABI {OLDEST} is the first that closes every gap"
            ),
            Self::Missing => {
                f.write_str("missing: the kernel has none, or it is switched off at boot")
            }
            Self::Off => f.write_str("switched off"),
        }
    }
}

/// Confines the calling thread, and those it will start, to the directories that the job needs.
pub(super) fn restrict(needs: &Needs<'_>) -> Result<LandlockStatus, String> {
    if needs.landlock == Landlock::Off {
        return Ok(LandlockStatus::Off);
    }
    let failed = |error: landlock::RulesetError| format!("Landlock: {error}");
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))
        .and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(NEWEST)))
        .and_then(|ruleset| ruleset.scope(Scope::from_all(NEWEST)))
        .and_then(Ruleset::create)
        .map_err(failed)?;
    for preopen in needs.preopens {
        let rule = PathBeneath::new(&preopen.directory, rights(preopen.access));
        ruleset = ruleset.add_rule(rule).map_err(failed)?;
    }
    let restricted = ruleset.restrict_self().map_err(failed)?;
    let status = match (restricted.ruleset, restricted.landlock) {
        (RulesetStatus::NotEnforced, _) => LandlockStatus::Missing,
        (_, status) => classify(status),
    };
    if needs.landlock == Landlock::Require && !status.is_enforced() {
        return Err(format!("Landlock is required here and {status}"));
    }
    Ok(status)
}

/// What a guest with this access to a directory needs of the kernel. No devices, sockets or pipes, and nothing is
/// ever executed.
fn rights(access: Access) -> BitFlags<AccessFs> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    match access {
        Access::ReadOnly => read,
        Access::ReadWrite => {
            read | AccessFs::WriteFile
                | AccessFs::Truncate
                | AccessFs::MakeReg
                | AccessFs::MakeDir
                | AccessFs::MakeSym
                | AccessFs::RemoveFile
                | AccessFs::RemoveDir
                | AccessFs::Refer
        }
    }
}

fn classify(status: landlock::LandlockStatus) -> LandlockStatus {
    match status {
        landlock::LandlockStatus::Available {
            effective_abi,
            kernel_abi,
        } => match kernel_abi.unwrap_or(effective_abi as i32) {
            abi if abi >= OLDEST => LandlockStatus::Enforced { abi },
            abi => LandlockStatus::Partial { abi },
        },
        _ => LandlockStatus::Missing,
    }
}

/// What Landlock would do for workers on this machine.
#[must_use]
pub fn landlock_status() -> LandlockStatus {
    // Only restricting tells, and there is no way back: a thread that ends at once does it.
    std::thread::spawn(|| {
        let needs = Needs::compilation(Landlock::Prefer, 1 << 30);
        restrict(&needs).unwrap_or(LandlockStatus::Missing)
    })
    .join()
    .unwrap_or(LandlockStatus::Missing)
}
