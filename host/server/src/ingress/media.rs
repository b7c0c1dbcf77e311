//! The media type a file's name stands for.

/// What a file without a known extension is: bytes to keep, not a page to show.
pub(super) const OCTETS: &str = "application/octet-stream";

/// The media type of a file, by its name's extension. Text is UTF-8: releases come from archives, which
/// carry no charset, and nothing else is written today.
pub(super) fn type_of(name: &str) -> &'static str {
    let file = name.rsplit('/').next().unwrap_or(name);
    let Some((_, extension)) = file.rsplit_once('.') else {
        return OCTETS;
    };
    // The longest extension below has eleven characters; a longer one is none of them.
    let mut lower = [0; 11];
    let Some(lower) = lower.get_mut(..extension.len()) else {
        return OCTETS;
    };
    lower.copy_from_slice(extension.as_bytes());
    lower.make_ascii_lowercase();
    match &*lower {
        b"html" | b"htm" => "text/html; charset=utf-8",
        b"css" => "text/css; charset=utf-8",
        b"js" | b"mjs" | b"cjs" => "text/javascript; charset=utf-8",
        b"json" | b"map" => "application/json",
        b"webmanifest" => "application/manifest+json",
        b"jsonld" => "application/ld+json",
        b"geojson" => "application/geo+json",
        b"ndjson" | b"jsonl" => "application/x-ndjson",
        b"wasm" => "application/wasm",
        b"txt" | b"text" | b"log" => "text/plain; charset=utf-8",
        b"md" | b"markdown" => "text/markdown; charset=utf-8",
        b"csv" => "text/csv; charset=utf-8",
        b"tsv" => "text/tab-separated-values; charset=utf-8",
        b"vtt" => "text/vtt; charset=utf-8",
        b"ics" => "text/calendar; charset=utf-8",
        b"vcf" => "text/vcard; charset=utf-8",
        b"xml" | b"xsl" | b"xsd" => "application/xml",
        b"xhtml" => "application/xhtml+xml",
        b"rss" => "application/rss+xml",
        b"atom" => "application/atom+xml",
        b"yaml" | b"yml" => "application/yaml",
        b"toml" => "application/toml",
        b"pdf" => "application/pdf",
        b"epub" => "application/epub+zip",
        b"rtf" => "application/rtf",
        b"svg" => "image/svg+xml",
        b"png" => "image/png",
        b"apng" => "image/apng",
        b"jpg" | b"jpeg" => "image/jpeg",
        b"gif" => "image/gif",
        b"webp" => "image/webp",
        b"avif" => "image/avif",
        b"jxl" => "image/jxl",
        b"ico" => "image/x-icon",
        b"bmp" => "image/bmp",
        b"tif" | b"tiff" => "image/tiff",
        b"woff" => "font/woff",
        b"woff2" => "font/woff2",
        b"ttf" => "font/ttf",
        b"otf" => "font/otf",
        b"mp3" => "audio/mpeg",
        b"m4a" => "audio/mp4",
        b"ogg" | b"oga" => "audio/ogg",
        b"opus" => "audio/opus",
        b"flac" => "audio/flac",
        b"wav" => "audio/wav",
        b"weba" => "audio/webm",
        b"mp4" | b"m4v" => "video/mp4",
        b"webm" => "video/webm",
        b"ogv" => "video/ogg",
        b"mov" => "video/quicktime",
        b"m3u8" => "application/vnd.apple.mpegurl",
        b"gz" | b"tgz" => "application/gzip",
        b"zst" => "application/zstd",
        b"zip" => "application/zip",
        b"tar" => "application/x-tar",
        b"xz" => "application/x-xz",
        b"bz2" => "application/x-bzip2",
        b"7z" => "application/x-7z-compressed",
        _ => OCTETS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_follows_the_last_extension_in_any_case() {
        assert_eq!(type_of("index.html"), "text/html; charset=utf-8");
        assert_eq!(type_of("a.b/App.JS"), "text/javascript; charset=utf-8");
        assert_eq!(type_of("manifest.webmanifest"), "application/manifest+json");
        assert_eq!(type_of("app.js.gz"), "application/gzip");
        assert_eq!(type_of("app.js.zst"), "application/zstd");
    }

    #[test]
    fn what_is_not_known_is_octets() {
        for name in [
            "app.js.br",
            "LICENSE",
            "dir.html/file",
            "x.",
            "x.extension-nobody-has",
            "x.\u{e9}",
        ] {
            assert_eq!(type_of(name), OCTETS, "{name}");
        }
    }
}
