//! Homes and regions.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::crypto::SecretVec;

fn mode(path: &std::path::Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn refused(bench: &Bench) -> HomeError {
    bench.another().root_session(&region()).err().unwrap()
}

#[test]
fn a_home_is_its_owners_alone() {
    let bench = Bench::new();
    let home = bench.dir.path().join("home");
    assert_eq!(mode(&home), 0o700);
    assert_eq!(mode(&bench.region_dir()), 0o700);
    make(&bench.session());
    for entry in fs::read_dir(bench.region_dir()).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    fs::set_permissions(&home, Permissions::from_mode(0o750)).unwrap();
    assert!(matches!(Home::open(&home), Err(HomeError::TooOpen { mode: 0o750, .. })));
    let missing = Home::open(&bench.dir.path().join("nowhere")).err().unwrap().to_string();
    assert!(missing.contains("nowhere") && missing.contains("kmsfs init"), "{missing}");
}

#[test]
fn a_region_is_made_once_and_whole() {
    let bench = Bench::new();
    assert!(matches!(bench.kms.create_region(&region(), None), Err(HomeError::RegionExists { .. })));
    let other: Region = "eu-west-1".parse().unwrap();
    let absent = bench.kms.root_session(&other).err().unwrap().to_string();
    assert!(absent.contains("has no region eu-west-1; it has us-east-1"), "{absent}");
    bench.kms.create_region(&other, None).unwrap();
    assert_eq!(bench.kms.home().regions().unwrap(), [other, region()]);
    // Nothing is left of the making.
    assert_eq!(fs::read_dir(bench.dir.path().join("home")).unwrap().count(), 2);
}

#[test]
fn nothing_of_one_region_works_in_another() {
    let bench = Bench::new();
    let other: Region = "eu-west-1".parse().unwrap();
    bench.kms.create_region(&other, None).unwrap();
    let (here, there) = (bench.session(), bench.kms.root_session(&other).unwrap());
    let key = make(&here);
    let blob = encrypt(&here, &key, b"secret").unwrap();
    assert_eq!(decrypt(&there, &blob).unwrap_err().kind, KmsErrorKind::AccessDenied);
    let arn = metadata(&here, &key).arn;
    let error = encrypt(&there, &arn, b"x").unwrap_err();
    assert_eq!((error.kind, error.message.as_str()), (KmsErrorKind::NotFound, "Invalid arn us-east-1"));
}

#[test]
fn a_lost_part_of_a_region_is_named() {
    let bench = Bench::new();
    drop(bench.session());
    let (key, store) = (bench.region_dir().join("root.key"), bench.region_dir().join("store.db"));
    let aside = bench.dir.path().join("aside");
    fs::rename(&key, &aside).unwrap();
    assert!(matches!(refused(&bench), HomeError::RootKeyMissing { .. }));
    crate::kms::root::RootKey::create(&key, None).unwrap();
    assert!(matches!(refused(&bench), HomeError::OtherRootKey { .. }));
    fs::rename(&aside, &key).unwrap();
    fs::rename(&store, &aside).unwrap();
    assert!(matches!(refused(&bench), HomeError::StoreMissing { .. }));
    fs::rename(&aside, &store).unwrap();
    assert!(bench.another().root_session(&region()).is_ok());
}

#[test]
fn a_passphrase_keeps_a_region_closed() {
    let bench = Bench::new();
    let other: Region = "eu-west-1".parse().unwrap();
    bench.kms.create_region(&other, Some(&SecretVec::new(b"correct horse".to_vec()))).unwrap();
    let try_with = |passphrase: Option<&[u8]>| {
        let passphrase = passphrase.map(|p| SecretVec::new(p.to_vec()));
        let options = KmsOptions { passphrase, ..KmsOptions::new(ACCOUNT.parse().unwrap()) };
        let kms = Kms::open(&bench.dir.path().join("home"), options).unwrap();
        kms.root_session(&other).map(|_| ()).map_err(|e| e.to_string())
    };
    assert!(try_with(None).unwrap_err().contains("none was given"));
    assert!(try_with(Some(b"battery staple")).unwrap_err().contains("does not open"));
    assert_eq!(try_with(Some(b"correct horse")), Ok(()));
}
