//! The Debian packages each purpose needs, and why. These lists are the only place that names them.

/// A Debian package and how to tell that its content is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Package {
    /// The package's name.
    pub name: &'static str,
    /// A program that is good enough wherever it came from; none for libraries and the compiler,
    /// where only this package will do.
    pub program: Option<&'static str>,
    /// Says to a person what it is for.
    pub why: &'static str,
}

const fn tool(name: &'static str, program: &'static str, why: &'static str) -> Package {
    Package { name, program: Some(program), why }
}

const fn library(name: &'static str, why: &'static str) -> Package {
    Package { name, program: None, why }
}

/// Compiling the user-space binaries.
pub const COMPILE: &[Package] = &[
    tool("gcc", "cc", "C compiler: the TLS crate ring has C and assembly in it"),
    library("libc6-dev", "C headers and start files, for ring and for linking"),
];

/// Rust to BPF where there is no nightly toolchain with rust-src.
pub const BPF_COMPILER: &[Package] = &[
    library("rustc-web", "a rustc with the BPF target, new enough for the workspace"),
    library("cargo-web", "the cargo of the same version"),
    library("rust-web-src", "the sources of core, which is compiled for BPF with us"),
];

/// Building bpf-linker, where none with the compiler's LLVM is at hand.
pub const LINKER_BUILD: &[Package] = &[
    library("llvm-22-dev", "LLVM of the same major version as the compiler's"),
    library("libpolly-22-dev", "llvm-config names it among the libraries to link"),
    library("zlib1g-dev", "LLVM links it"),
    library("libzstd-dev", "LLVM links it"),
];

/// The lab, the demo and the tests.
pub const LAB: &[Package] = &[
    tool("iproute2", "ip", "namespaces, links, routes"),
    tool("nftables", "nft", "tests: netfilter rules as CNI plugins and firewalls make them"),
    tool("iptables", "iptables-legacy-restore", "bench: kube-proxy's rules in iptables mode"),
    tool("nginx", "nginx", "demo: the shop's web server and API"),
    tool("redis-server", "redis-server", "demo: the shop's cache"),
    tool("redis-tools", "redis-cli", "demo: the cache's client"),
    tool("dnsmasq-base", "dnsmasq", "demo: DNS over UDP and TCP"),
    tool("bind9-dnsutils", "dig", "demo: the DNS client"),
    tool("curl", "curl", "demo: the web client"),
    tool("bpftool", "bpftool", "looking at programs and maps by hand"),
];

/// Looking into the kernels that `cargo xtask kernels` boots.
pub const KERNELS: &[Package] = &[
    tool("xz-utils", "xz", "kernels: their modules are compressed"),
    tool("binutils", "strip", "kernels: the guest's programs go without debug information"),
];

/// Depends on the newest kernel of a release, of the flavour for virtual machines: the smallest.
/// Fetched and unpacked for [`KERNELS`], never installed.
pub const KERNEL: &str = "linux-image-cloud-amd64";
/// What a kernel's package depends on and its content may be in.
pub const KERNEL_PARTS: &[&str] = &["linux-binary-", "linux-modules-"];
/// The emulator. Fetched and unpacked where it is not installed, never installed: Debian 12's own
/// would take a newer qemu-utils away.
pub const EMULATOR: &str = "qemu-system-x86";

/// Services that start with the machine once their package is installed. The lab runs its own
/// copies in namespaces; the machine's must neither start nor take ports.
pub const DAEMONS: &[(&str, &str)] =
    &[("nginx", "nginx.service"), ("redis-server", "redis-server.service")];

/// LLVM's major version in [`BPF_COMPILER`] and [`LINKER_BUILD`]; the two must agree.
pub const LLVM_MAJOR: u32 = 22;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llvm_packages_carry_the_major_version() {
        let names = LINKER_BUILD.iter().map(|package| package.name);
        let llvm: Vec<_> =
            names.filter(|name| name.contains("llvm") || name.contains("polly")).collect();
        assert_eq!(llvm.len(), 2);
        assert!(llvm.iter().all(|name| name.contains(&LLVM_MAJOR.to_string())));
    }

    #[test]
    fn every_daemon_is_in_a_list() {
        for (package, _) in DAEMONS {
            assert!(LAB.iter().any(|listed| listed.name == *package), "{package}");
        }
    }
}
