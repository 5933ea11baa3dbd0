//! What std does not reach on every WASI target: sockets, name lookup, links and raw randomness.

use wasip2::random::random::get_random_bytes;
use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::ip_name_lookup::resolve_addresses;
use wasip2::sockets::network::{ErrorCode, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress};
use wasip2::sockets::tcp_create_socket::create_tcp_socket;
use wasip2::sockets::udp_create_socket::create_udp_socket;

pub fn random() -> String {
    get_random_bytes(16).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn connect(port: u16) -> Result<String, ErrorCode> {
    let socket = create_tcp_socket(IpAddressFamily::Ipv4)?;
    socket.start_connect(&instance_network(), loopback(port))?;
    socket.subscribe().block();
    socket.finish_connect()?;
    Ok("connected".to_owned())
}

pub fn send(port: u16) -> Result<String, ErrorCode> {
    let socket = create_udp_socket(IpAddressFamily::Ipv4)?;
    socket.start_bind(&instance_network(), loopback(0))?;
    socket.finish_bind()?;
    socket.stream(Some(loopback(port)))?;
    Ok("sent".to_owned())
}

pub fn resolve(name: &str) -> Result<String, ErrorCode> {
    let lookup = resolve_addresses(&instance_network(), name)?;
    lookup.subscribe().block();
    Ok(format!("{:?}", lookup.resolve_next_address()?))
}

/// A symbolic link `name` to `target`, both below the first folder that the host shows.
pub fn link(target: &str, name: &str) -> Result<String, String> {
    let folders = wasip2::filesystem::preopens::get_directories();
    let (folder, shown) = folders.first().ok_or("there is no folder")?;
    let name = name.strip_prefix(shown.as_str()).unwrap_or(name).trim_start_matches('/');
    folder.symlink_at(target, name).map(|()| "linked".to_owned()).map_err(|error| error.to_string())
}

fn loopback(port: u16) -> IpSocketAddress {
    IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address: (127, 0, 0, 1) })
}
