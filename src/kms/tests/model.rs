//! The key service against a simple model of itself.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Act {
    Make,
    Enable(usize),
    Disable(usize),
    Rotate(usize),
    RotateEvery(usize, i64),
    RotateNoMore(usize),
    Schedule(usize),
    Cancel(usize),
    Name(usize, usize),
    Rename(usize, usize),
    Unname(usize),
    Encrypt(usize),
    EncryptByName(usize),
    Decrypt(usize),
    Wait(i64),
}

fn act() -> impl Strategy<Value = Act> {
    let (key, name) = (0..6usize, 0..4usize);
    prop_oneof![
        2 => Just(Act::Make),
        1 => key.clone().prop_map(Act::Enable),
        2 => key.clone().prop_map(Act::Disable),
        2 => key.clone().prop_map(Act::Rotate),
        2 => (key.clone(), 90..200i64).prop_map(|(k, days)| Act::RotateEvery(k, days)),
        1 => key.clone().prop_map(Act::RotateNoMore),
        2 => key.clone().prop_map(Act::Schedule),
        1 => key.clone().prop_map(Act::Cancel),
        2 => (name.clone(), key.clone()).prop_map(|(n, k)| Act::Name(n, k)),
        2 => (name.clone(), key.clone()).prop_map(|(n, k)| Act::Rename(n, k)),
        1 => name.clone().prop_map(Act::Unname),
        4 => key.prop_map(Act::Encrypt),
        3 => name.prop_map(Act::EncryptByName),
        6 => (0..12usize).prop_map(Act::Decrypt),
        2 => (1..5i64).prop_map(Act::Wait),
        1 => (40..120i64).prop_map(Act::Wait),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Stage {
    On,
    Off,
    Going(i64),
    Gone,
}

/// What a use of a key at this stage answers.
fn usable(stage: Stage, by_ciphertext: bool) -> Option<KmsErrorKind> {
    match stage {
        Stage::On => None,
        Stage::Off => Some(KmsErrorKind::Disabled),
        Stage::Going(_) => Some(KmsErrorKind::InvalidState(KeyState::PendingDeletion)),
        Stage::Gone if by_ciphertext => Some(KmsErrorKind::AccessDenied),
        Stage::Gone => Some(KmsErrorKind::NotFound),
    }
}

#[derive(Default)]
struct Model {
    today: i64,
    keys: Vec<(String, Stage)>,
    /// Period and next date, by key.
    schedules: BTreeMap<usize, (i64, i64)>,
    rotations: BTreeMap<usize, usize>,
    names: BTreeMap<usize, usize>,
    blobs: Vec<(usize, Vec<u8>, Vec<u8>)>,
}

impl Model {
    fn stage(&self, key: usize) -> Stage {
        match self.keys[key].1 {
            Stage::Going(due) if due <= self.today => Stage::Gone,
            stage => stage,
        }
    }

    fn settle(&mut self) {
        for key in 0..self.keys.len() {
            self.keys[key].1 = self.stage(key);
        }
        self.names.retain(|_, key| self.keys[*key].1 != Stage::Gone);
    }

    /// Rotates what is enabled and due; true if something was.
    fn rotate_due(&mut self) -> bool {
        let due: Vec<usize> =
            self.schedules.iter().filter(|(_, s)| s.1 <= self.today).map(|(k, _)| *k).collect();
        let due: Vec<usize> = due.into_iter().filter(|k| self.stage(*k) == Stage::On).collect();
        for key in &due {
            let period = self.schedules[key].0;
            self.schedules.insert(*key, (period, self.today + period));
            *self.rotations.entry(*key).or_default() += 1;
        }
        !due.is_empty()
    }

    /// Does it in both and compares.
    fn go(&mut self, bench: &Bench, session: &Session, act: &Act) {
        let pending = Some(KmsErrorKind::InvalidState(KeyState::PendingDeletion));
        let name_of = |n: usize| format!("alias/n{n}");
        if let Act::Enable(k)
        | Act::Disable(k)
        | Act::Rotate(k)
        | Act::RotateEvery(k, _)
        | Act::RotateNoMore(k)
        | Act::Schedule(k)
        | Act::Cancel(k)
        | Act::Name(_, k)
        | Act::Rename(_, k)
        | Act::Encrypt(k) = act
            && *k >= self.keys.len()
        {
            return;
        }
        self.settle();
        let kind = |answer: Result<(), KmsError>| answer.err().map(|e| e.kind);
        let (due, said) = match *act {
            Act::Make => {
                self.keys.push((make(session), Stage::On));
                (None, None)
            }
            Act::Wait(days) => {
                self.today += days;
                bench.clock.days(days);
                if self.rotate_due() {
                    bench.kms.tick();
                }
                (None, None)
            }
            Act::Enable(k) | Act::Disable(k) => {
                let key_id = self.keys[k].0.clone();
                let on = matches!(act, Act::Enable(_));
                let said = if on {
                    session.call(EnableKeyRequest { key_id })
                } else {
                    session.call(DisableKeyRequest { key_id })
                };
                let due = match self.keys[k].1 {
                    Stage::On | Stage::Off => {
                        self.keys[k].1 = if on { Stage::On } else { Stage::Off };
                        self.rotate_due();
                        None
                    }
                    stage => usable(stage, false),
                };
                (due, kind(said))
            }
            Act::Rotate(k) => {
                let said = session.call(RotateKeyOnDemandRequest { key_id: self.keys[k].0.clone() });
                (usable(self.keys[k].1, false), kind(said.map(|_| ())))
            }
            Act::RotateEvery(k, days) => {
                let (key_id, rotation_period_in_days) = (self.keys[k].0.clone(), Some(days));
                let said = session.call(EnableKeyRotationRequest { key_id, rotation_period_in_days });
                if said.is_ok() {
                    let from = self.schedules.get(&k).map_or(self.today, |(period, next)| next - period);
                    self.schedules.insert(k, (days, from + days));
                    if self.rotate_due() {
                        bench.kms.tick();
                    }
                }
                (usable(self.keys[k].1, false), kind(said))
            }
            Act::RotateNoMore(k) => {
                let said = session.call(DisableKeyRotationRequest { key_id: self.keys[k].0.clone() });
                if said.is_ok() {
                    self.schedules.remove(&k);
                }
                (usable(self.keys[k].1, false), kind(said))
            }
            Act::Schedule(k) => {
                let request = ScheduleKeyDeletionRequest {
                    key_id: self.keys[k].0.clone(),
                    pending_window_in_days: Some(7),
                };
                let due = match self.keys[k].1 {
                    Stage::On | Stage::Off => {
                        self.keys[k].1 = Stage::Going(self.today + 7);
                        None
                    }
                    stage => usable(stage, false),
                };
                (due, kind(session.call(request).map(|_| ())))
            }
            Act::Cancel(k) => {
                let due = match self.keys[k].1 {
                    Stage::Going(_) => {
                        self.keys[k].1 = Stage::Off;
                        None
                    }
                    Stage::On => Some(KmsErrorKind::InvalidState(KeyState::Enabled)),
                    Stage::Off => Some(KmsErrorKind::InvalidState(KeyState::Disabled)),
                    Stage::Gone => Some(KmsErrorKind::NotFound),
                };
                let said = session.call(CancelKeyDeletionRequest { key_id: self.keys[k].0.clone() });
                (due, kind(said.map(|_| ())))
            }
            Act::Name(n, k) => {
                let due = match (self.keys[k].1, self.names.contains_key(&n)) {
                    (Stage::Gone, _) => Some(KmsErrorKind::NotFound),
                    (Stage::Going(_), _) => pending,
                    (_, true) => Some(KmsErrorKind::AlreadyExists),
                    (_, false) => {
                        self.names.insert(n, k);
                        None
                    }
                };
                (due, kind(alias(session, &name_of(n), &self.keys[k].0)))
            }
            Act::Rename(n, k) => {
                let due = match (self.keys[k].1, self.names.contains_key(&n)) {
                    (_, false) | (Stage::Gone, _) => Some(KmsErrorKind::NotFound),
                    (Stage::Going(_), _) => pending,
                    (_, true) => {
                        self.names.insert(n, k);
                        None
                    }
                };
                let target_key_id = self.keys[k].0.clone();
                (due, kind(session.call(UpdateAliasRequest { alias_name: name_of(n), target_key_id })))
            }
            Act::Unname(n) => {
                let due = self.names.remove(&n).map_or(Some(KmsErrorKind::NotFound), |_| None);
                (due, kind(session.call(DeleteAliasRequest { alias_name: name_of(n) })))
            }
            Act::Encrypt(_) | Act::EncryptByName(_) => {
                let (key, name) = match *act {
                    Act::EncryptByName(n) => (self.names.get(&n).copied(), name_of(n)),
                    Act::Encrypt(k) => (Some(k), self.keys[k].0.clone()),
                    _ => unreachable!(),
                };
                let text = vec![self.blobs.len() as u8 + 1; 5];
                let said = encrypt(session, &name, &text);
                let due = key.map_or(Some(KmsErrorKind::NotFound), |k| usable(self.keys[k].1, false));
                if let (Some(key), Ok(blob)) = (key, &said) {
                    self.blobs.push((key, blob.clone(), text));
                }
                (due, kind(said.map(|_| ())))
            }
            Act::Decrypt(b) => {
                let Some((key, blob, text)) = self.blobs.get(b) else { return };
                let said = decrypt(session, blob);
                if let Ok(opened) = &said {
                    assert_eq!(opened, text);
                }
                (usable(self.keys[*key].1, true), kind(said.map(|_| ())))
            }
        };
        assert_eq!(said, due, "{act:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Two services on one home take turns, so that what one has cached the other changes.
    #[test]
    fn the_service_agrees_with_a_model(acts in vec((any::<bool>(), act()), 1..60)) {
        let bench = Bench::new();
        let other = bench.another();
        let sessions = [bench.session(), other.root_session(&region()).unwrap()];
        let mut model = Model::default();
        for (which, act) in &acts {
            model.go(&bench, &sessions[usize::from(*which)], act);
        }
        model.settle();
        bench.kms.tick();
        let mut left: Vec<String> =
            model.keys.iter().filter(|(_, s)| *s != Stage::Gone).map(|(id, _)| id.clone()).collect();
        left.sort();
        let listed: Vec<String> =
            sessions[0].call(ListKeysRequest::default()).unwrap().keys.into_iter().map(|k| k.key_id).collect();
        prop_assert_eq!(listed, left);
        for (key, (id, stage)) in model.keys.iter().enumerate().filter(|(_, (_, s))| *s != Stage::Gone) {
            let request = ListKeyRotationsRequest { key_id: id.clone(), ..Default::default() };
            let found = sessions[1].call(request).unwrap().rotations;
            let automatic = found.iter().filter(|r| r.rotation_type == Some("AUTOMATIC")).count();
            prop_assert_eq!(automatic, model.rotations.get(&key).copied().unwrap_or(0));
            let status = sessions[1].call(GetKeyRotationStatusRequest { key_id: id.clone() }).unwrap();
            let next = status.next_rotation_date.map(|next| {
                model.today + next.duration_since(bench.clock.now()).as_hours() / 24
            });
            let due = model.schedules.get(&key).filter(|_| !matches!(stage, Stage::Going(_)));
            prop_assert_eq!(next, due.map(|(_, next)| *next));
        }
        let aliases = sessions[0].call(ListAliasesRequest::default()).unwrap().aliases;
        let named: Vec<(String, String)> =
            aliases.into_iter().map(|a| (a.alias_name, a.target_key_id)).collect();
        let due: Vec<(String, String)> =
            model.names.iter().map(|(n, k)| (format!("alias/n{n}"), model.keys[*k].0.clone())).collect();
        prop_assert_eq!(named, due);
        prop_assert!(sessions[1].verify_log(None).is_ok());
    }
}
