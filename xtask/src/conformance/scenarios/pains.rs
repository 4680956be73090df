//! 9: what people suffer from, in kube-proxy and in other eBPF replacements of it.

use crate::conformance::scenario::{Section, missing, same};

/// kube-proxy's.
pub const PAINS: Section = Section {
    number: "9",
    title: "Known bugs and pains of kube-proxy",
    rows: &[
        same(
            "1 kubernetes#139513",
            "a sync takes minutes with 44 000 Services, and reads the whole table each time",
            &[
                "millrace::plan::tests::scale::one_changed_endpoint_among_all_touches_its_service_alone",
                "lab_scale::feeding_ten_thousand_services_and_a_hundred_thousand_endpoints_works",
            ],
        )
        .better("rows of what changed are written, and nothing is read back"),
        same(
            "2 kubernetes#135639",
            "2 to 20 minutes per sync with 250 000 endpoints, a CPU at 100 %",
            &[
                "millrace::plan::tests::scale::one_changed_endpoint_among_all_touches_its_service_alone",
                "lab_scale::feeding_ten_thousand_services_and_a_hundred_thousand_endpoints_works",
            ],
        )
        .better("the same, in batches of map writes"),
        same(
            "3 kubernetes#48107, flannel#933",
            "updates wait for the lock of xtables",
            &["lab_packet_beside::beside_a_firewall_that_drops_by_default"],
        )
        .better("no rule of netfilter is made: there is no lock to share"),
        same(
            "4 kubernetes#128928",
            "the cache of EndpointSlices leaked up to 8 GB",
            &[
                "millrace::model::tests::events::a_complete_list_sweeps_what_it_did_not_name",
                "millrace::plan::tests::properties::what_does_not_fit_leaves_no_trace_and_nothing_leaks",
                "conformance_sync::repeated_syncs_write_what_changed",
            ],
        )
        .better("what a list no longer names is forgotten; every table has a size"),
        same(
            "5 kubernetes#139628",
            "UDP flows to dead pods live on when a Service is scaled to nothing",
            &["conformance_over_time::udp_ends_when_no_backend_is_left"],
        )
        .better("a flow asks for its backend by id and generation: the next datagram is refused"),
        same(
            "6 kubernetes#125467, #59368, #48370",
            "stale and black-holed UDP entries",
            &[
                "conformance_over_time::udp_goes_to_another_backend_when_its_own_is_gone",
                "conformance_over_time::udp_that_began_without_endpoints_is_served_when_there_are_some",
                "lab_sockets::connected_udp_is_told_when_its_backend_is_gone",
            ],
        )
        .better("every datagram checks that its backend is still the one it was"),
        same(
            "7 kubernetes#122740",
            "UDP flows (QUIC) are cut when kube-proxy starts again",
            &[
                "lab_packet_flows::no_packet_is_lost_when_agents_die_and_return",
                "conformance_over_time::a_restart_of_the_agent_cuts_no_flow",
            ],
        )
        .better("flows and ids are pinned; a start changes nothing that is right"),
        same(
            "8 kubernetes#48719",
            "a SYN before the rules exist leaves an entry that is not translated: the connection \
             hangs",
            &[
                "conformance_over_time::what_was_sent_before_the_service_existed_is_no_obstacle",
                "lab_sockets::sockets_opened_before_the_service_existed",
            ],
        )
        .better("nothing is remembered of what was not translated: the retransmission is served"),
        same(
            "9 kubernetes#101968, #106651, #108523, #70020",
            "SCTP flows are never drained or cleaned",
            &["conformance_over_time::tcp_and_sctp_stay_with_their_backend"],
        )
        .differs("not better: they drain as with kube-proxy, and end with the association's \
                  SHUTDOWN or the idle timeout; a policy per protocol does not exist"),
        same(
            "10 kubernetes#100698, #104098, #46753, #38456",
            "long-lived TCP connections stay with a dead endpoint until they time out",
            &[
                "lab_packet_flows::tcp_drains_when_its_backend_leaves",
                "lab_sockets::established_tcp_connections_are_left_alone",
            ],
        )
        .differs("not better: graceful draining is what kube-proxy's users expect; aborting the \
                  connections of endpoints that are gone is not built"),
        same(
            "11 kubernetes#74839, #117924, #94861",
            "packets that conntrack finds invalid pass untranslated, and the client resets",
            &[
                "lab_packet_odd::out_of_window_segments_do_not_reach_the_client_as_they_are",
                "lab_packet_beside::beside_a_firewall_that_sees_half_of_bridged_connections",
            ],
        )
        .better("answers are translated by their tuple; there is no window to be out of"),
        same(
            "12 kubernetes#56903, #76699",
            "races of source and destination NAT: DNS takes 5 s",
            &["lab_sockets::one_udp_socket_talks_to_two_services"],
        )
        .better("a socket is led to its backend before there is a packet: nothing is translated"),
        same(
            "13 kubernetes#139276",
            "masquerading picks a port in the NodePort range, which collides",
            &["millrace::devices::ports::tests::ports_lie_clear_of_what_sockets_get_and_of_node_ports"],
        )
        .better("ports come from a range that has neither NodePorts nor sockets' ports"),
        same(
            "14 kubernetes#111682",
            "a NodePort in the ephemeral range takes the answers to the host's own connections",
            &["conformance_over_time::answers_to_the_hosts_own_connections_are_left_alone"],
        )
        .differs("better for TCP, where only a SYN begins a flow; not for UDP, where an answer \
                  to the host's own socket cannot be told from a question: NodePorts and \
                  ip_local_port_range should not overlap"),
        same(
            "15 kubernetes#121371, #134895",
            "a Local policy without a local endpoint is silence: clients hang",
            &[
                "conformance_flows::internal_policy",
                "lab_packet_cluster_ip::internal_policy_local_is_silent_without_an_endpoint_here",
            ],
        )
        .differs("not better: silence is what upstream's tests ask for; it is counted, and told \
                  in `millrace services`"),
        same(
            "16 kubernetes#110302",
            "affinity to a faulty endpoint is renewed for ever",
            &["conformance_over_time::affinity_ends_with_its_endpoint"],
        )
        .better("it ends as soon as the endpoint is not ready or leaves, and does not come back"),
        same(
            "17 kubernetes#37932, #64580, #34321",
            "random choice looks uneven; no other algorithm",
            &["select::new_connections_spread_evenly"],
        )
        .differs("not better: as uniform as kube-proxy's, by one multiplication; weights and \
                  other algorithms do not exist"),
        same(
            "18 kubernetes#132955, k0s#5760, kubernetes#142183",
            "localhost NodePorts: missing in nftables mode, a hole (route_localnet) in iptables \
             mode",
            &[
                "lab_node_port::node_ports_answer_on_the_nodes_loopback",
                "lab_node_port::a_pods_loopback_is_its_own",
            ],
        )
        .better("127.0.0.1 and ::1, TCP and UDP, for the node's own processes, without a sysctl"),
        same(
            "19 kubernetes#131765",
            "externalTrafficPolicy Local drops pods' traffic when no detector is configured",
            &[
                "conformance_flows::external_policy_local",
                "lab_packet_node_port::local_external_policy_knows_its_own_pods_from_strangers",
            ],
        )
        .better("pods are known by the device they come in by, without any configuration"),
        same(
            "20 kubernetes#75360, #76376",
            "a gap without rules at a restart",
            &[
                "lab_restart::no_connection_fails_when_the_agent_restarts",
                "lab_devices::a_restart_puts_new_programs_behind_the_same_links",
            ],
        )
        .better("programs are replaced behind their links; there is no moment without one"),
        same(
            "21 kubernetes#57518, #83791, #111321, #37414",
            "a wrong or late node name, IP or podCIDR silently misconfigures",
            &[
                "lab_environment::a_node_name_that_no_node_has_is_told",
                "millrace::model::tests::events::a_node_that_nobody_knows_is_a_condition",
                "millrace::model::tests::policy::new_addresses_count_at_once",
            ],
        )
        .better("it is told in `status` and followed live; nothing exits"),
        same(
            "22 kubernetes#138360",
            "source NAT takes the interface's address, not the node's: NetworkPolicies miss it",
            &["millrace::devices::tests::masqueraded_packets_come_from_the_device_or_its_bridge"],
        )
        .differs("not better: as kube-proxy, the address of the device that the packet leaves by \
                  (the answer must come back to it), the node's where that has none; a fixed one \
                  cannot be set"),
        same(
            "23 kubernetes#85643, #115825",
            "rollouts under externalTrafficPolicy Local lose traffic; the health check lied",
            &[
                "lab_packet_load_balancer::rolling_updates_lose_no_connection",
                "lab_health_check_ports::terminating_endpoints_serve_and_do_not_count",
                "lab_canary::packets_that_are_not_translated_are_noticed",
            ],
        )
        .better("health means that a canary was translated, not that a process runs"),
        same(
            "24 kubernetes#135266",
            "a reused pod IP loses against its terminating ghost",
            &[
                "millrace::model::tests::endpoints::a_running_pod_wins_over_a_terminating_one_with_its_address",
                "conformance_over_time::an_address_that_another_service_gets_takes_no_udp_flow_along",
            ],
        )
        .better("the running pod wins; and a flow belongs to a Service's backend, not to an \
                 address"),
        same(
            "25 kubernetes#112604, #129128, #133767",
            "changes are lost when a sync fails; drift is not repaired for up to an hour",
            &[
                "conformance_sync::a_failed_sync_is_made_good_by_the_next",
                "millrace::apply::tests::failures_and_restarts_leave_no_trace",
                "lab_devices::what_somebody_removes_is_put_back",
                "lab_canary::sockets_hooks_that_somebody_removes_are_put_back",
            ],
        )
        .better("a failed round is repeated from what the maps hold; programs that somebody \
                 removes are back within a second"),
        same(
            "26 siderolabs/pkgs#951, kubernetes#137501",
            "nft's binary and the kernel's options do not fit: the proxy breaks",
            &[
                "millrace::bpf::environment::tests::kernel_releases_are_compared_by_number",
                "millrace::bpf::environment::tests::missing_capabilities_are_named",
                "lab_environment::a_cgroup_root_that_is_none_is_refused",
            ],
        )
        .better("no other program is needed; the kernel is asked what it can, and what is \
                 missing is named (`cargo xtask kernels` tries Debian's from 5.10 on)"),
    ],
};

/// Other replacements'.
pub const TRAPS: Section = Section {
    number: "9, traps",
    title: "Known bugs of other eBPF replacements",
    rows: &[
        same(
            "cilium#47755",
            "the packet quoted in ICMP \"too big\" is not translated: path MTU discovery breaks",
            &[
                "lab_packet_odd::bulk_passes_a_narrow_hop",
                "packet_shapes::every_shape_ends_as_it_should_natively",
            ],
        )
        .better("quoted packets are translated, checksums included"),
        same(
            "calico#8854",
            "ICMP errors do not come back for relayed NodePort traffic",
            &["lab_packet_odd::errors_of_backends_are_translated"],
        )
        .better("they do, from the frontend"),
        missing(
            "cilium#21541",
            "the kernel's NFS client breaks with translation at connect time",
            "no test mounts NFS; kernels that keep what the hook wrote in the mount's own \
             address (before \"net: Avoid address overwrite in kernel_connect\", 6.6 and \
             backports) dial the same backend again after it is gone: mount by another address \
             there, or use `--socket-lb=off`",
        ),
        same(
            "cilium#14118",
            "a ping to a service address loops",
            &["packet_table::every_story_ends_as_it_should_natively"],
        )
        .better("an echo request to a ClusterIP is rejected, to nobody's dropped: neither goes on"),
        same(
            "cilium#10261",
            "NodePorts and ephemeral ports overlap",
            &["millrace::devices::ports::tests::ports_lie_clear_of_what_sockets_get_and_of_node_ports"],
        )
        .better("ports to masquerade with keep clear of both"),
        same(
            "linkerd/website#1615",
            "meshes break when a ClusterIP is rewritten at connect()",
            &["lab_devices::sockets_are_left_alone_when_the_operator_says_so"],
        )
        .better("`--socket-lb=off` leaves every socket alone; packets are translated instead"),
    ],
};
