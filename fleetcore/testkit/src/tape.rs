//! Tar entries as an attacker would write them; a well-behaved library refuses to.

/// POSIX.1-1988 `ustar` header: field offsets are those of IEEE Std 1003.1, pax, "ustar Interchange Format".
fn header(name: &str, size: usize, kind: u8, link: &str) -> Vec<u8> {
    let mut block = vec![0u8; 512];
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(field) = block.get_mut(at..at + bytes.len()) {
            field.copy_from_slice(bytes);
        }
    };
    put(0, name.as_bytes());
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(157, link.as_bytes());
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    if let Some(field) = block.get_mut(148..156) {
        field.copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    block
}

/// A regular file.
pub fn file(name: &str, data: &[u8]) -> Vec<u8> {
    let mut entry = header(name, data.len(), b'0', "");
    entry.extend_from_slice(data);
    entry.resize(entry.len().next_multiple_of(512), 0);
    entry
}

/// A symbolic link.
pub fn link(name: &str, to: &str) -> Vec<u8> {
    header(name, 0, b'2', to)
}

/// A character device.
pub fn device(name: &str) -> Vec<u8> {
    header(name, 0, b'3', "")
}

/// The two empty blocks that end a tape.
pub fn end() -> Vec<u8> {
    vec![0; 1024]
}
