//! Tries to reach the network in every way.
use std::net::{TcpListener, TcpStream, ToSocketAddrs as _, UdpSocket};

use cofferdam_test_programs::tried;

fn main() {
    let to = cofferdam_test_programs::text("to", "127.0.0.1:9");
    tried("tcp connect", TcpStream::connect(&to));
    tried("tcp listen", TcpListener::bind("127.0.0.1:0"));
    tried(
        "udp",
        UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.send_to(b"x", &to)),
    );
    tried(
        "name lookup",
        "localhost:80"
            .to_socket_addrs()
            .map(|mut found| found.next()),
    );
}
