//! Which addresses are public: what is not surely out on the internet is not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether `address` is neither this machine, nor its network, nor one that stands for such an address.
pub(super) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !(address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
        || address.is_documentation()
        || a == 0
        || a >= 240
        // Shared by a provider's customers, assignments of the protocol, old relays, measurements.
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (18..20).contains(&b)))
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let parts = address.segments();
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match parts {
        // ::ffff:a.b.c.d is the IPv4 address itself, 64:ff9b:: and 2002:: are translated to one.
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        // 2001::/23 is for protocols, Teredo among them, 2001:db8::/32 for documents.
        [0x2001, second, ..] if second < 0x200 || second == 0xdb8 => false,
        // Global unicast is 2000::/3 and nothing else.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(addresses: &[&str], expected: bool) {
        for text in addresses {
            assert_eq!(is_public(text.parse().expect("an address")), expected, "{text}");
        }
    }

    #[test]
    fn this_machine_and_its_network_are_not_public() {
        check(&["127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1"], false);
        check(&["169.254.169.254", "100.64.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1"], false);
        check(&["::1", "::", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1"], false);
    }

    #[test]
    fn an_address_that_stands_for_another_is_judged_by_that() {
        check(&["::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::"], false);
        check(&["::127.0.0.1", "64:ff9b:1::1", "2001::1"], false);
        check(&["::ffff:8.8.8.8", "64:ff9b::808:808"], true);
    }

    #[test]
    fn the_internet_is_public() {
        check(&["8.8.8.8", "93.184.215.14", "172.32.0.1", "100.128.0.1"], true);
        check(&["2606:4700::1111", "2a00:1450::1"], true);
    }
}
