//! Says a secret in every way in which a step can say anything. `end` is how it ends: by itself, in a panic that holds
//! the secret, in failure, or with a release that is refused for a link that has the secret in its name.
use std::fs;
use std::io::Write as _;
use std::process::ExitCode;

use cofferdam_sdk as sdk;
use wasip2::filesystem::preopens::get_directories;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{Fields, OutgoingRequest, Scheme};

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let mut bits = [0; 3];
        bits[..group.len()].copy_from_slice(group);
        let bits = u32::from_be_bytes([0, bits[0], bits[1], bits[2]]);
        for at in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * at) & 63) as usize];
            text.push(if at > group.len() { '=' } else { digit.into() });
        }
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn percent(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        if byte.is_ascii_alphanumeric() {
            text.push(char::from(*byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

/// Asks for a host that was not granted, with the secret in the place that is named.
fn ask(host: &str, path: &str) -> String {
    let request = OutgoingRequest::new(Fields::new());
    let fits = [
        request.set_scheme(Some(&Scheme::Https)),
        request.set_authority(Some(host)),
        request.set_path_with_query(Some(path)),
    ];
    if fits.contains(&Err(())) {
        return "it does not fit".to_owned();
    }
    match outgoing_handler::handle(request, None) {
        Ok(answer) => {
            answer.subscribe().block();
            format!("{:?}", answer.get().map(|got| got.map(Result::err)))
        }
        Err(error) => format!("{error:?}"),
    }
}

fn tell(secret: &str) -> Result<(), Box<dyn std::error::Error>> {
    let json = serde_json::to_string(secret)?;
    println!("plain: {secret}");
    eprintln!("plain: {secret}");
    println!("quoted: {secret:?} and {json}");
    println!("base64: {}", base64(secret.as_bytes()));
    for name in ["me", "you", "them"] {
        let pair = format!("{name}:{secret}\n");
        println!("authorization: Basic {}", base64(pair.as_bytes()));
    }
    println!("hex: {}", hex(secret.as_bytes()));
    println!(
        "url: https://example.org/?key={}&x=1",
        percent(secret.as_bytes())
    );

    let middle = (secret.len() / 2..)
        .find(|at| secret.is_char_boundary(*at))
        .ok_or("no middle")?;
    let (first, second) = secret.split_at(middle);
    let mut out = std::io::stdout();
    write!(out, "two writes: {first}")?;
    out.flush()?;
    eprintln!("something else in between");
    writeln!(out, "{second}")?;
    print!("both streams: {first}");
    out.flush()?;
    eprint!("{second}");
    println!();
    eprintln!();
    print!("bit by bit: ");
    for piece in secret.chars() {
        print!("{piece}");
        out.flush()?;
    }
    println!();
    print!("{first}\n{second}\n");

    println!(
        "asked: {}",
        ask(
            "secrets.invalid:443",
            &format!("/{}?k={secret}", percent(secret.as_bytes()))
        )
    );
    println!(
        "asked: {}",
        ask(&format!("{}.invalid:443", hex(secret.as_bytes())), "/")
    );
    println!("not granted: {}", sdk::secret(secret).is_err());

    sdk::progress(1, Some(2), &format!("uploading with {secret}"));
    sdk::progress(2, Some(2), &base64(secret.as_bytes()));
    sdk::warning(format!("{secret} is about to expire"));
    sdk::output("token", &secret)?;
    sdk::output(
        secret,
        &serde_json::json!({ "deep": [{ secret: base64(secret.as_bytes()) }, percent(secret.as_bytes())] }),
    )?;
    let line = serde_json::json!({ "name": "from-file", "value": { "key": secret } });
    fs::write("/tmp/outputs.jsonl", format!("{line}\n{secret}\n"))?;
    // What a step writes into the release is its own affair, also when a later step prints it.
    fs::write("/release/leaked.txt", format!("found: {secret}\n"))?;
    Ok(())
}

fn main() -> ExitCode {
    let name = cofferdam_test_programs::text("name", "CANARY");
    let secret = match sdk::secret(&name) {
        Ok(secret) => String::from_utf8_lossy(&secret).into_owned(),
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let told = tell(&secret);
    match cofferdam_test_programs::text("end", "success").as_str() {
        "panic" => panic!("cannot use {secret}: {}", base64(secret.as_bytes())),
        "release" => {
            let name = hex(secret.as_bytes());
            let link = get_directories()
                .iter()
                .find(|(_, path)| path == "/release")
                .map(|(release, _)| release.symlink_at("../../../elsewhere", &name));
            println!("linked: {link:?}");
        }
        "failure" => {
            eprint!("the last words are {secret}");
            return ExitCode::FAILURE;
        }
        _ => {}
    }
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
