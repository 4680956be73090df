//! Which ports masqueraded flows come from.
//!
//! Nobody asks the kernel for these ports, so the kernel must not give them to sockets: they lie
//! clear of `net.ipv4.ip_local_port_range`, or in that part of it that is reserved
//! (`ip_local_reserved_ports`, which only the operator writes). NodePorts are clear as well: an
//! answer to a masqueraded flow must not look like a request to a NodePort.

/// A range of ports, both ends included.
pub type Range = (u16, u16);

/// Kubernetes' default range of NodePorts.
const NODE_PORTS: Range = (30_000, 32_767);
/// What is taken if it is clear: below NodePorts and what Linux gives to sockets by default
/// (32768-60999), above what most programs listen on. Each new flow makes sure that no socket
/// listens.
const PREFERRED: Range = (10_240, 29_999);
/// The lowest port that is taken.
const FIRST: u16 = 1025;
/// Fewer ports are not worth having: a busy node would run out.
const PORTS_MIN: u32 = 1024;

/// The ports to use. `local`: what sockets get; `reserved`: what they do not get of it. Nothing:
/// there is no range that is clear.
pub fn choose(local: Range, reserved: &[Range]) -> Option<Range> {
    let is_clear = |port: u16| {
        let given = within(port, local) && !reserved.iter().any(|range| within(port, *range));
        !given && !within(port, NODE_PORTS)
    };
    if (PREFERRED.0..=PREFERRED.1).all(is_clear) {
        return Some(PREFERRED);
    }
    let mut best: Option<Range> = None;
    let mut run: Option<Range> = None;
    for port in FIRST..=u16::MAX {
        run = match run {
            _ if !is_clear(port) => None,
            Some((first, _)) => Some((first, port)),
            None => Some((port, port)),
        };
        if run.map_or(0, length) > best.map_or(0, length) {
            best = run;
        }
    }
    best.filter(|range| length(*range) >= PORTS_MIN)
}

/// What is wrong with a range that the operator asked for; nothing: it is clear.
pub fn objection(range: Range, local: Range, reserved: &[Range]) -> Option<String> {
    let (first, last) = range;
    if first <= NODE_PORTS.1 && last >= NODE_PORTS.0 {
        return Some(format!(
            "--masquerade-ports {first}-{last} overlaps the NodePorts {}-{}: answers to \
             masqueraded flows are taken for requests; choose ports outside of them",
            NODE_PORTS.0, NODE_PORTS.1
        ));
    }
    let given = |port: &u16| within(*port, local) && !reserved.iter().any(|r| within(*port, *r));
    let clash = (first..=last).find(given)?;
    Some(format!(
        "--masquerade-ports {first}-{last} overlaps net.ipv4.ip_local_port_range {}-{} (port \
         {clash}): a socket may get the same port; choose others, or set \
         net.ipv4.ip_local_reserved_ports={first}-{last}",
        local.0, local.1
    ))
}

const fn within(port: u16, (first, last): Range) -> bool {
    first <= port && port <= last
}

const fn length((first, last): Range) -> u32 {
    last as u32 - first as u32 + 1
}

/// Read `ip_local_port_range`: two numbers.
pub fn parse_local_range(text: &str) -> Option<Range> {
    let mut numbers = text.split_whitespace();
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Read `ip_local_reserved_ports`: ports and ranges with commas between them. What cannot be read
/// is left out: it then counts as given to sockets.
pub fn parse_reserved(text: &str) -> Vec<Range> {
    let read = |item: &str| {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
    };
    text.trim().split(',').filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINUX: Range = (32_768, 60_999);

    #[test]
    fn ports_lie_clear_of_what_sockets_get_and_of_node_ports() {
        let table: &[(&str, Range, &[Range], Option<Range>)] = &[
            ("Linux' default", LINUX, &[], Some((10_240, 29_999))),
            ("a short range", (40_000, 50_000), &[], Some((10_240, 29_999))),
            ("all above NodePorts: below them", (32_768, 65_535), &[], Some((10_240, 29_999))),
            ("common for busy nodes", (15_000, 65_000), &[], Some((1025, 14_999))),
            ("gap above, too small", (5_000, 65_000), &[], Some((1025, 4_999))),
            ("the larger of two gaps", (3_000, 60_000), &[], Some((60_001, 65_535))),
            ("nothing is left", (1024, 65_535), &[], None),
            ("less than 1024 are left", (1_500, 65_000), &[], None),
            ("reserved for us", (1024, 65_535), &[(61_000, 65_535)], Some((61_000, 65_535))),
            ("reserved elsewhere", (1024, 65_535), &[(4_000, 8_000)], Some((4_000, 8_000))),
            ("reserved NodePorts do not count", (1024, 65_535), &[(30_000, 32_767)], None),
        ];
        for (what, local, reserved, expected) in table {
            assert_eq!(choose(*local, reserved), *expected, "{what}");
        }
    }

    #[test]
    fn what_the_operator_asks_for_is_judged() {
        assert_eq!(objection((61_000, 65_535), LINUX, &[]), None);
        assert_eq!(objection((50_000, 51_000), LINUX, &[(50_000, 51_000)]), None);
        let said = objection((50_000, 51_000), LINUX, &[(50_001, 51_000)]).unwrap();
        assert!(said.contains("32768-60999 (port 50000)"), "{said}");
        assert!(said.ends_with("ip_local_reserved_ports=50000-51000"), "{said}");
        let said = objection((32_000, 32_100), LINUX, &[]).unwrap();
        assert!(said.contains("the NodePorts 30000-32767"), "{said}");
    }

    #[test]
    fn settings_are_read_as_the_kernel_writes_them() {
        assert_eq!(parse_local_range("32768\t60999\n"), Some(LINUX));
        assert_eq!(parse_local_range("\n"), None);
        assert_eq!(parse_reserved("\n"), []);
        assert_eq!(parse_reserved("8080,9148,30000-32767\n").len(), 3);
        assert_eq!(parse_reserved("8080,x,30000-32767\n"), [(8080, 8080), (30_000, 32_767)]);
    }
}
