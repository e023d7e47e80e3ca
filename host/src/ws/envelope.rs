//! The header of a WebSocket message (RFC 6455, 5.2): whole messages, from a
//! server, so neither fragmented nor masked.

use bytes::Bytes;
use eddy_protocol::Form;

const FIN: u8 = 0x80;

/// What stands before a message of `len` bytes.
///
/// ```text
/// FIN+opcode, len            len < 126
/// FIN+opcode, 126, be u16    len < 65,536
/// FIN+opcode, 127, be u64    else
/// ```
pub(super) fn header(form: Form, len: usize) -> Bytes {
    let opcode = match form {
        Form::Json => 0x1,
        Form::Binary => 0x2,
    };
    let mut header = vec![FIN | opcode];
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(len), _) if len < 126 => header.push(len),
        (_, Ok(len)) => {
            header.push(126);
            header.extend_from_slice(&len.to_be_bytes());
        }
        _ => {
            header.push(127);
            header.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    header.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_takes_the_shortest_of_three_forms() {
        assert_eq!(header(Form::Binary, 0)[..], [0x82, 0]);
        assert_eq!(header(Form::Json, 125)[..], [0x81, 125]);
        assert_eq!(header(Form::Binary, 126)[..], [0x82, 126, 0, 126]);
        assert_eq!(header(Form::Binary, 65_535)[..], [0x82, 126, 255, 255]);
        assert_eq!(
            header(Form::Binary, 65_536)[..],
            [0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]
        );
    }
}
