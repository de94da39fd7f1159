//! The mount point: attaching a FUSE device to a directory, and detaching it. By the system call where the
//! process may, else by fusermount3, as libfuse does.
//!
//! fuser could do this too, but then takes the requests of writeback, which come as root, for those of a
//! stranger in a mount of an ordinary user, and names the type `fuse` instead of `fuse.kmsfs`.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::{MountError, MountOptions};

const DEVICE: &str = "/dev/fuse";
const HELPER: &str = "fusermount3";
const SUBTYPE: &str = "kmsfs";

/// Attaches a device to `point`, a canonical path, and answers it.
pub(crate) fn attach(point: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    match open_device() {
        Ok(device) => match attach_directly(&device, point, options) {
            Ok(()) => Ok(device.into()),
            Err(Errno::PERM) => attach_by_helper(point, options),
            Err(error) => Err(refused(point, io::Error::from(error).to_string())),
        },
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => attach_by_helper(point, options),
        Err(error) => Err(MountError::NoDevice(error)),
    }
}

/// True if each thread can have a device of its own (/dev/fuse opens).
pub(crate) fn can_clone() -> bool {
    open_device().is_ok()
}

fn open_device() -> io::Result<File> {
    File::options().read(true).write(true).open(DEVICE)
}

fn attach_directly(device: &File, point: &Path, options: &MountOptions) -> Result<(), Errno> {
    let mode = rustix::fs::stat(point)?.st_mode;
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let mut data = format!(
        "fd={},rootmode={mode:o},user_id={uid},group_id={gid},default_permissions,subtype={SUBTYPE}",
        device.as_raw_fd()
    );
    if options.allow_other {
        data.push_str(",allow_other");
    }
    let data = CString::new(data).map_err(|_| Errno::INVAL)?;
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
    if options.read_only {
        flags |= MountFlags::RDONLY;
    }
    rustix::mount::mount(options.source.as_bytes(), point, "fuse", flags, &*data)
}

/// fusermount3 mounts and sends the device over the socket that it is told of; that is its standard input,
/// because every child inherits it without any doing.
pub(crate) fn attach_by_helper(point: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let (ours, theirs) = UnixStream::pair().map_err(|e| refused(point, e.to_string()))?;
    let child = Command::new(HELPER)
        .arg("-o")
        .arg(helper_options(options))
        .arg("--")
        .arg(point)
        .env("_FUSE_COMMFD", "0")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(MountError::NoHelper)?;
    let device = receive(&ours);
    // Without auto_unmount it exits as soon as the device is sent.
    let output = child.wait_with_output().map_err(MountError::NoHelper)?;
    match device {
        Ok(Some(device)) if output.status.success() => Ok(device),
        Ok(_) => Err(refused(point, said(&output.stderr))),
        Err(error) => Err(refused(point, error.to_string())),
    }
}

fn helper_options(options: &MountOptions) -> OsString {
    let mut all = b"nosuid,nodev,default_permissions,subtype=kmsfs".to_vec();
    if options.allow_other {
        all.extend_from_slice(b",allow_other");
    }
    if options.read_only {
        all.extend_from_slice(b",ro");
    }
    all.extend_from_slice(b",fsname=");
    for &byte in options.source.as_bytes() {
        if matches!(byte, b',' | b'\\') {
            all.push(b'\\');
        }
        all.push(byte);
    }
    OsString::from_vec(all)
}

/// The device that the other side sends; None if it closes without.
fn receive(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    rustix::io::retry_on_intr(|| {
        recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    Ok(control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    }))
}

/// Detaches what is mounted on `point`. `lazy`: even if it is in use; what is open stays usable until it is
/// closed.
pub(crate) fn detach(point: &Path, lazy: bool) -> Result<(), MountError> {
    let flags = UnmountFlags::NOFOLLOW | if lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    match rustix::mount::unmount(point, flags) {
        // Nothing is mounted there, or nothing is there: somebody else was faster.
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(Errno::BUSY) => Err(MountError::Busy { point: point.to_owned() }),
        Err(Errno::PERM) => detach_by_helper(point, lazy),
        Err(error) => Err(failed(point, io::Error::from(error).to_string())),
    }
}

fn detach_by_helper(point: &Path, lazy: bool) -> Result<(), MountError> {
    let mut command = Command::new(HELPER);
    command.arg(if lazy { "-uz" } else { "-u" }).arg("--").arg(point);
    let output = command.stdin(Stdio::null()).output().map_err(MountError::NoHelper)?;
    if output.status.success() {
        return Ok(());
    }
    let said = said(&output.stderr);
    if said.contains("busy") {
        Err(MountError::Busy { point: point.to_owned() })
    } else if said.contains("not found in") {
        Ok(())
    } else {
        Err(failed(point, said))
    }
}

fn said(stderr: &[u8]) -> String {
    let said = String::from_utf8_lossy(stderr).trim().to_owned();
    if said.is_empty() { format!("{HELPER} gave no reason") } else { said }
}

fn refused(point: &Path, reason: String) -> MountError {
    MountError::Refused { point: point.to_owned(), reason }
}

fn failed(point: &Path, reason: String) -> MountError {
    MountError::Unmount { point: point.to_owned(), reason }
}

/// The device number of the filesystem that `path` is in, asked without troubling the one that serves it.
pub(crate) fn device_of(path: &Path) -> io::Result<(u32, u32)> {
    use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
    let stat = statx(CWD, path, AtFlags::STATX_DONT_SYNC | AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE)?;
    Ok((stat.stx_dev_major, stat.stx_dev_minor))
}

/// The kernel starts every FUSE mount with 128 KiB of readahead; root may raise it.
pub(crate) fn raise_readahead(device: (u32, u32), bytes: u32) {
    let path = PathBuf::from(format!("/sys/class/bdi/{}:{}/read_ahead_kb", device.0, device.1));
    if let Err(error) = std::fs::write(&path, (bytes / 1024).to_string()) {
        tracing::debug!(%error, ?path, "readahead stays at the kernel's own size");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_in_the_source_do_not_end_it() {
        let options =
            MountOptions { source: "/a,suid\\b".into(), read_only: true, ..MountOptions::default() };
        assert_eq!(
            helper_options(&options),
            "nosuid,nodev,default_permissions,subtype=kmsfs,ro,fsname=/a\\,suid\\\\b"
        );
    }

    #[test]
    fn a_device_is_received_and_a_closed_socket_gives_none() {
        use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
        use std::os::fd::AsFd;
        let (ours, theirs) = UnixStream::pair().unwrap();
        let file = File::open("/dev/null").unwrap();
        let fds = [file.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        sendmsg(&theirs, &[io::IoSlice::new(&[0])], &mut control, SendFlags::empty()).unwrap();
        drop(theirs);
        assert!(receive(&ours).unwrap().is_some());
        assert!(receive(&ours).unwrap().is_none());
    }
}
