//! Uses ordinary files in every ordinary way, and says the first thing that is not as it should be.
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};

fn main() -> std::io::Result<()> {
    fs::write("plain", "0123456789")?;
    let mut file = OpenOptions::new().read(true).write(true).open("plain")?;
    file.seek(SeekFrom::Start(4))?;
    file.write_all(b"ab")?;
    file.seek(SeekFrom::End(0))?;
    file.write_all(b"cd")?;
    file.rewind()?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    assert_eq!(text, "0123ab6789cd");
    file.set_len(6)?;
    assert_eq!(fs::read("plain")?, b"0123ab");

    let mut append = OpenOptions::new()
        .append(true)
        .create(true)
        .open("appended")?;
    append.write_all(b"one ")?;
    append.write_all(b"two")?;
    OpenOptions::new()
        .append(true)
        .open("appended")?
        .write_all(b" three")?;
    assert_eq!(fs::read_to_string("appended")?, "one two three");

    assert!(File::create_new("plain").is_err(), "it exists");
    File::create_new("new")?;
    assert!(
        File::create("missing/file").is_err(),
        "there is no such directory"
    );
    assert!(
        OpenOptions::new().write(true).open("missing").is_err(),
        "there is no such file"
    );
    fs::write("plain", "short")?;
    assert_eq!(fs::read("plain")?, b"short");
    let mut created = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open("plain")?;
    let mut text = String::new();
    created.read_to_string(&mut text)?;
    assert_eq!(text, "short");

    let big: Vec<u8> = (0..300_000_u32)
        .map(|number| number.to_le_bytes()[0])
        .collect();
    fs::write("big", &big)?;
    assert_eq!(fs::read("big")?, big);
    assert_eq!(fs::metadata("big")?.len(), 300_000);
    fs::remove_file("big")?;
    fs::create_dir("empty")?;
    fs::remove_dir("empty")?;
    assert!(
        File::create("directory/").is_err(),
        "a file's name does not end so"
    );
    println!("all is well");
    Ok(())
}
