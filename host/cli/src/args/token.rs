//! The arguments of `cofferdam token`.

use std::str::FromStr;

use clap::{Args, Subcommand};
use cofferdam_deploy::{Scope, TokenName};

use super::ClientArgs;

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token; it is printed once and never shown again
    #[command(after_help = CREATE_HELP)]
    Create(TokenCreateArgs),
    /// List the tokens: what they are called and what they allow
    List(TokenListArgs),
    /// Revoke a token; what it has under way ends at once
    Revoke(TokenRevokeArgs),
}

const CREATE_HELP: &str = "\
Examples:
  cofferdam token create --scope deploy:blog --expires 30d --name ci
  cofferdam token create --scope read:* --expires never --name prometheus
  COFFERDAM_TOKEN=$(cofferdam token create --scope deploy:blog) cofferdam deploy ./site -p blog

Scopes: deploy:PROJECT (which includes reading it), read:PROJECT, deploy:*, read:*, admin (everything).";

#[derive(Debug, Args)]
pub(crate) struct TokenCreateArgs {
    /// What it allows; can be given more than once
    #[arg(long = "scope", value_name = "SCOPE", required = true, value_parser = scope)]
    pub(crate) scopes: Vec<String>,
    /// How long it is good: 12h, 30d, 26w, or never
    #[arg(long, value_name = "TIME", default_value = "90d")]
    pub(crate) expires: Lifetime,
    /// What to call it
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<TokenName>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TokenListArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Print JSON lines
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TokenRevokeArgs {
    /// The token: its id, enough of its beginning or end, or its name
    #[arg(value_name = "ID|NAME")]
    pub(crate) which: String,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// For how many seconds a token is good; nothing means for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lifetime(pub(crate) Option<u64>);

/// What a lifetime may end with, in seconds.
const UNITS: [(&str, u64); 5] = [
    ("s", 1),
    ("m", 60),
    ("h", 3600),
    ("d", 24 * 3600),
    ("w", 7 * 24 * 3600),
];

impl FromStr for Lifetime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "never" {
            return Ok(Self(None));
        }
        let parsed = UNITS.iter().find_map(|(unit, seconds)| {
            let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
            number.checked_mul(*seconds).filter(|seconds| *seconds > 0)
        });
        match parsed {
            Some(seconds) => Ok(Self(Some(seconds))),
            None => Err(
                "write it as a whole number and a unit, like 30d (s, m, h, d, w), or never"
                    .to_owned(),
            ),
        }
    }
}

fn scope(text: &str) -> Result<String, String> {
    let parsed: Result<Scope, _> = text.parse();
    parsed
        .map(|scope| scope.to_string())
        .map_err(|error| error.to_string())
}

impl TokenCommand {
    /// Whether standard output is for a script.
    pub(crate) fn json(&self) -> bool {
        match self {
            TokenCommand::Create(args) => args.json,
            TokenCommand::List(args) => args.json,
            TokenCommand::Revoke(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifetime_is_a_number_and_a_unit_or_never() {
        assert_eq!("30d".parse(), Ok(Lifetime(Some(30 * 86_400))));
        assert_eq!("12h".parse(), Ok(Lifetime(Some(43_200))));
        assert_eq!("never".parse(), Ok(Lifetime(None)));
        for bad in [
            "",
            "30",
            "d",
            "0d",
            "-1d",
            "1.5h",
            "99999999999999999999d",
            "1y",
        ] {
            assert!(bad.parse::<Lifetime>().is_err(), "{bad}");
        }
    }
}
