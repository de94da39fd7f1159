//! The states of a key: which step leads where, and what may be done in which.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{KeyState, KmsError, KmsErrorKind};

/// A key's state as its row keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Usable.
    Enabled,
    /// Switched off.
    Disabled,
    /// To be deleted at this time, in milliseconds since 1970.
    PendingDeletion {
        /// When.
        due: i64,
    },
    /// Origin EXTERNAL and without material.
    PendingImport,
    /// The same, because material of it expired.
    Expired,
    /// A multi-Region primary key that is to be deleted this many days after its last replica.
    PendingReplicaDeletion {
        /// The waiting period.
        days: u32,
    },
}

/// What changes a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// EnableKey.
    Enable,
    /// DisableKey.
    Disable,
    /// ScheduleKeyDeletion, with the time in milliseconds since 1970.
    ScheduleDeletion {
        /// When.
        due: i64,
    },
    /// ScheduleKeyDeletion of a primary key that has replicas.
    AwaitReplicas {
        /// The waiting period in days, once they are gone.
        days: u32,
    },
    /// CancelKeyDeletion.
    CancelDeletion,
}

/// In which states an operation works at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// In every state.
    Nothing,
    /// A key that stays.
    NotPendingDeletion,
    /// Material that may be used.
    Usable,
}

impl State {
    /// The state's name.
    pub fn visible(self) -> KeyState {
        match self {
            Self::Enabled => KeyState::Enabled,
            Self::Disabled => KeyState::Disabled,
            Self::PendingDeletion { .. } => KeyState::PendingDeletion,
            Self::PendingImport | Self::Expired => KeyState::PendingImport,
            Self::PendingReplicaDeletion { .. } => KeyState::PendingReplicaDeletion,
        }
    }

    /// Whether its deletion is pending.
    pub fn going(self) -> bool {
        matches!(self, Self::PendingDeletion { .. } | Self::PendingReplicaDeletion { .. })
    }

    /// When the key goes.
    pub fn deletion(self) -> Option<Timestamp> {
        match self {
            Self::PendingDeletion { due } => Timestamp::from_millisecond(due).ok(),
            Self::Enabled
            | Self::Disabled
            | Self::PendingImport
            | Self::Expired
            | Self::PendingReplicaDeletion { .. } => None,
        }
    }

    /// The one transition function.
    pub fn next(self, step: Step, arn: &str) -> Result<Self, KmsError> {
        match (step, self) {
            (Step::Enable, Self::Enabled | Self::Disabled) => Ok(Self::Enabled),
            (Step::Disable, Self::Enabled | Self::Disabled) => Ok(Self::Disabled),
            (
                Step::ScheduleDeletion { due },
                Self::Enabled | Self::Disabled | Self::PendingImport | Self::Expired,
            ) => Ok(Self::PendingDeletion { due }),
            (
                Step::AwaitReplicas { days },
                Self::Enabled | Self::Disabled | Self::PendingImport | Self::Expired,
            ) => Ok(Self::PendingReplicaDeletion { days }),
            (Step::CancelDeletion, Self::PendingDeletion { .. } | Self::PendingReplicaDeletion { .. }) => {
                Ok(Self::Disabled)
            }
            (Step::CancelDeletion, _) => Err(KmsError::new(
                KmsErrorKind::InvalidState(self.visible()),
                format!("{arn} is not pending deletion."),
            )),
            (
                Step::Enable | Step::Disable | Step::ScheduleDeletion { .. } | Step::AwaitReplicas { .. },
                _,
            ) => Err(self.refusal(arn)),
        }
    }

    /// Refuses an operation that this state does not allow.
    pub fn check(self, needs: Needs, arn: &str) -> Result<(), KmsError> {
        let good = match needs {
            Needs::Nothing => true,
            Needs::NotPendingDeletion => !self.going(),
            Needs::Usable => self == Self::Enabled,
        };
        if good { Ok(()) } else { Err(self.refusal(arn)) }
    }

    fn refusal(self, arn: &str) -> KmsError {
        let state = KmsErrorKind::InvalidState(self.visible());
        match self {
            Self::Disabled => KmsError::new(KmsErrorKind::Disabled, format!("{arn} is disabled.")),
            Self::PendingDeletion { .. } => KmsError::new(state, format!("{arn} is pending deletion.")),
            Self::PendingReplicaDeletion { .. } => {
                KmsError::new(state, format!("{arn} is pending replica deletion."))
            }
            Self::Expired => {
                KmsError::new(KmsErrorKind::MaterialExpired, format!("{arn} is pending import."))
            }
            Self::PendingImport => KmsError::new(state, format!("{arn} is pending import.")),
            Self::Enabled => KmsError::new(state, format!("{arn} is enabled.")),
        }
    }
}
