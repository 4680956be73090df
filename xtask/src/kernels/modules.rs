//! The kernel modules a guest inserts, with what they stand on, in an order that works.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::archive::Kernel;
use super::initramfs::Archive;

/// What the lab and Millrace need. A name that has no file is built into that kernel.
const WANTED: &[&str] = &[
    "veth",
    "bridge",
    "vxlan",
    "dummy",
    // The packet path below Linux 6.6.
    "sch_ingress",
    "cls_bpf",
    // A node whose kernel tracks connections, as most have it.
    "nf_conntrack",
];

/// Names the modules that one stands on, in its `.modinfo` section.
const DEPENDS: &[u8] = b"\0depends=";

/// Where the guest looks for them.
const PLACE: &str = "/modules";

/// Adds the modules and their order.
pub fn add_to(image: &mut Archive, kernel: &Kernel) -> Result<()> {
    let mut files = BTreeMap::new();
    index(&kernel.modules.join("kernel"), &mut files)
        .with_context(|| format!("read {}", kernel.modules.display()))?;
    let mut chosen = Vec::new();
    for name in WANTED {
        choose(name, &files, &mut chosen)?;
    }
    let mut order = String::new();
    for (name, content) in chosen {
        image.file(&format!("{PLACE}/{name}.ko"), 0o644, &content);
        order += &format!("{name}.ko\n");
    }
    image.file(&format!("{PLACE}/order"), 0o644, order.as_bytes());
    Ok(())
}

/// Every module's file, by its name with underscores.
fn index(dir: &Path, files: &mut BTreeMap<String, PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            index(&path, files)?;
        } else if let Some((stem, _)) =
            path.file_name().and_then(|name| name.to_str()).and_then(|name| name.split_once(".ko"))
        {
            files.insert(stem.replace('-', "_"), path);
        }
    }
    Ok(())
}

/// Takes a module, after what it stands on.
fn choose(
    name: &str,
    files: &BTreeMap<String, PathBuf>,
    chosen: &mut Vec<(String, Vec<u8>)>,
) -> Result<()> {
    let name = name.replace('-', "_");
    let Some(path) = files.get(&name) else { return Ok(()) };
    if chosen.iter().any(|(other, _)| *other == name) {
        return Ok(());
    }
    let content = read(path)?;
    for other in depends(&content) {
        choose(&other, files, chosen)?;
    }
    chosen.push((name, content));
    Ok(())
}

/// A module's content; later kernels have them compressed.
fn read(path: &Path) -> Result<Vec<u8>> {
    let extension = path.extension().unwrap_or_default().to_string_lossy().into_owned();
    match extension.as_str() {
        "ko" => fs::read(path).with_context(|| format!("read {}", path.display())),
        "xz" => {
            let output = Command::new("xz").arg("-dc").arg(path).output().context("start xz")?;
            if !output.status.success() {
                bail!("xz -dc {}: {}", path.display(), output.status);
            }
            Ok(output.stdout)
        }
        _ => bail!("{}: compressed in a way unknown here", path.display()),
    }
}

/// Names after `depends=`.
fn depends(module: &[u8]) -> Vec<String> {
    let Some(at) = module.windows(DEPENDS.len()).position(|window| window == DEPENDS) else {
        return Vec::new();
    };
    let list = &module[at + DEPENDS.len()..];
    let end = list.iter().position(|byte| *byte == 0).unwrap_or(list.len());
    let text = String::from_utf8_lossy(&list[..end]).into_owned();
    text.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_stand_in_the_module() {
        assert_eq!(depends(b"ELF\0license=GPL\0depends=stp,llc\0retpoline=Y\0"), ["stp", "llc"]);
        assert_eq!(depends(b"license=GPL\0depends=\0name=veth\0"), [""; 0]);
        assert_eq!(depends(b"nothing"), [""; 0]);
    }
}
