//! Looking at the directory: which manifests there are, and how to tell that one changed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::parse::Format;

/// Larger files are refused: each is read whole.
const FILE_MAX_BYTES: u64 = 256 << 20;

/// Changes when the file's content may have changed (or its permissions: it may now be readable).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Signature {
    device: u64,
    inode: u64,
    pub size_bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Signature {
    /// Of the file itself, or of what the symbolic link points at.
    pub fn of(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|metadata| Self::from(&metadata))
    }
}

impl From<&fs::Metadata> for Signature {
    fn from(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size_bytes: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// What is known of one manifest before it is read.
pub(super) type Found = io::Result<Signature>;

/// The manifests in a directory, not in those below it. Symbolic links are followed: that is how
/// ConfigMaps are mounted.
pub(super) fn manifests(dir: &Path) -> io::Result<BTreeMap<String, Found>> {
    let mut manifests = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let Some(name) = name.to_str().filter(|name| Format::of(name).is_some()) else { continue };
        match fs::metadata(dir.join(name)) {
            Ok(metadata) if metadata.is_file() => {
                manifests.insert(name.to_owned(), Ok(Signature::from(&metadata)));
            }
            Ok(_) => {}
            // Deleted meanwhile, or a link to nowhere.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                manifests.insert(name.to_owned(), Err(error));
            }
        }
    }
    Ok(manifests)
}

/// Device and inode of the directory: another one under the same name needs a new watch.
pub(super) fn identity(dir: &Path) -> io::Result<(u64, u64)> {
    fs::metadata(dir).map(|metadata| (metadata.dev(), metadata.ino()))
}

/// The whole file.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One byte more than allowed tells a file that is too large from one that just fits.
    File::open(path)?.take(FILE_MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_MAX_BYTES {
        let message = format!("larger than {} MiB: split the file", FILE_MAX_BYTES >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(bytes)
}
