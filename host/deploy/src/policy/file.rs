//! `policy.toml`, read and checked. Every value remembers its line, and what is not known is refused: a
//! typing error must not open a door.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::{Spanned, Value};

use super::ceilings::{Ceilings, Ruled};
use super::limit::{LIMITS, Unit};
use super::pattern::{HostPattern, NamePattern};
use super::{NetworkPolicy, PluginKey, Policy, Rule};
use crate::name::{PluginRef, ProjectName};
use crate::release::{Retention, RetentionRules};
use crate::signature::{SignaturePolicy, TrustedKeys};
use crate::units::{Milliseconds, Size};

/// The largest file of certificates: a few hundred of them.
const LONGEST_ROOTS: u64 = 1 << 20;

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct File {
    defaults: Table,
    plugins: BTreeMap<Spanned<String>, Table>,
    projects: BTreeMap<Spanned<String>, Table>,
    network: Network,
    signatures: Signatures,
    retention: RetentionTable,
}

/// What is kept, of every project and of some.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RetentionTable {
    releases: Option<Spanned<i64>>,
    age: Option<Milliseconds>,
    bytes: Option<Size>,
    projects: BTreeMap<Spanned<String>, RetentionRow>,
}

/// What is kept of one project; what it leaves out is as for every project.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RetentionRow {
    releases: Option<Spanned<i64>>,
    age: Option<Milliseconds>,
    bytes: Option<Size>,
}

/// The ceilings of one table.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Table {
    env: Option<Spanned<Vec<Spanned<String>>>>,
    secrets: Option<Spanned<Vec<Spanned<String>>>>,
    net: Option<Spanned<Vec<Spanned<String>>>>,
    cache: Option<Spanned<bool>>,
    cache_bytes: Option<Spanned<Value>>,
    state: Option<Spanned<bool>>,
    state_bytes: Option<Spanned<Value>>,
    storage_bytes: Option<Spanned<Value>>,
    reproducible: Option<Spanned<bool>>,
    limits: BTreeMap<Spanned<String>, Spanned<Value>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Network {
    allow_ranges: Vec<Spanned<String>>,
    extra_roots: Vec<Spanned<PathBuf>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Signatures {
    required: Option<Spanned<bool>>,
    keys: Vec<Spanned<String>>,
}

/// Where in which file something stands.
struct Place<'a> {
    file: &'a str,
    text: &'a str,
}

/// Reads a policy; the error is a message with the line and the key.
pub(super) fn parse(file: &str, text: &str, beside: &Path) -> Result<Policy, String> {
    let place = Place { file, text };
    let parsed: File = toml::from_str(text).map_err(|error| match error.span() {
        Some(span) => place.refusal(&span, "", error.message()),
        None => error.message().to_owned(),
    })?;
    let mut plugins = BTreeMap::new();
    for (key, table) in parsed.plugins {
        let plugin =
            plugin_key(key.get_ref()).map_err(|why| place.refusal(&key.span(), "plugins", why))?;
        if let Some(value) = &table.storage_bytes {
            let why = "is a project's; a plugin stores no packages";
            return Err(place.refusal(&value.span(), "storage_bytes", why));
        }
        let state = table.state.as_ref().map(Spanned::span);
        if let Some(span) = state.or(table.state_bytes.as_ref().map(Spanned::span)) {
            let why = "is a service's, which has no plugin; set it in [defaults] or for a project";
            return Err(place.refusal(&span, "state", why));
        }
        plugins.insert(plugin, place.table(table)?);
    }
    let mut projects = BTreeMap::new();
    for (key, table) in parsed.projects {
        let project: ProjectName = key
            .get_ref()
            .parse()
            .map_err(|why: crate::name::NameError| place.refusal(&key.span(), "projects", why))?;
        projects.insert(project, place.table(table)?);
    }
    Ok(Policy {
        defaults: place.table(parsed.defaults)?,
        plugins,
        projects,
        network: place.network(parsed.network, beside)?,
        signatures: place.signatures(parsed.signatures)?,
        retention: place.retention(parsed.retention)?,
    })
}

/// `npm` or `npm@1.2.0`. A digest has no table: it is one build of a plugin that has a name.
fn plugin_key(text: &str) -> Result<PluginKey, String> {
    match text.parse::<PluginRef>() {
        Ok(PluginRef::Named { name, version }) => Ok((name, version)),
        Ok(PluginRef::Digest(_)) => Err(format!(
            "{text:?} is a digest; a table is for a name, or a name and version"
        )),
        Err(error) => Err(error.to_string()),
    }
}

impl Place<'_> {
    fn line(&self, span: &Range<usize>) -> usize {
        1 + self.text.as_bytes()[..span.start.min(self.text.len())]
            .iter()
            .filter(|&&byte| byte == b'\n')
            .count()
    }

    fn rule(&self, span: &Range<usize>) -> Rule {
        Rule::Line {
            file: self.file.to_owned(),
            line: self.line(span),
        }
    }

    fn refusal(&self, span: &Range<usize>, key: &str, why: impl Display) -> String {
        let line = self.line(span);
        match key {
            "" => format!("line {line}: {why}"),
            key => format!("line {line}: {key}: {why}"),
        }
    }

    fn table(&self, table: Table) -> Result<Ceilings, String> {
        Ok(Ceilings {
            env: self.list("env", table.env, NamePattern::parse)?,
            secrets: self.list("secrets", table.secrets, NamePattern::parse)?,
            net: self.list("net", table.net, HostPattern::parse)?,
            cache: table.cache.map(|flag| self.flag(&flag)),
            cache_bytes: self.size("cache_bytes", table.cache_bytes)?,
            state: table.state.map(|flag| self.flag(&flag)),
            state_bytes: self.size("state_bytes", table.state_bytes)?,
            storage_bytes: self.size("storage_bytes", table.storage_bytes)?,
            reproducible: table.reproducible.map(|flag| self.flag(&flag)),
            limits: self.limits(table.limits)?,
        })
    }

    fn size(&self, key: &str, size: Option<Spanned<Value>>) -> Result<Option<Ruled<u64>>, String> {
        size.map(|value| {
            let amount = amount(Unit::Bytes, true, value.get_ref())
                .map_err(|why| self.refusal(&value.span(), key, why))?;
            Ok(Ruled {
                value: amount,
                rule: self.rule(&value.span()),
            })
        })
        .transpose()
    }

    fn flag(&self, flag: &Spanned<bool>) -> Ruled<bool> {
        Ruled {
            value: *flag.get_ref(),
            rule: self.rule(&flag.span()),
        }
    }

    fn list<T>(
        &self,
        key: &str,
        list: Option<Spanned<Vec<Spanned<String>>>>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<Ruled<Vec<T>>>, String> {
        let Some(list) = list else {
            return Ok(None);
        };
        let rule = self.rule(&list.span());
        let entries = list.into_inner().into_iter().map(|entry| {
            parse(entry.get_ref()).map_err(|why| self.refusal(&entry.span(), key, why))
        });
        Ok(Some(Ruled {
            value: entries.collect::<Result<_, _>>()?,
            rule,
        }))
    }

    fn limits(
        &self,
        table: BTreeMap<Spanned<String>, Spanned<Value>>,
    ) -> Result<BTreeMap<&'static str, Ruled<u64>>, String> {
        let mut limits = BTreeMap::new();
        for (key, value) in table {
            let name = key.get_ref().as_str();
            let found = LIMITS
                .iter()
                .find(|limit| limit.name == name || limit.short() == name);
            let Some(limit) = found else {
                let known: Vec<_> = LIMITS.iter().map(|limit| limit.name).collect();
                let why = format!("is no limit; there are {}", known.join(", "));
                return Err(self.refusal(&key.span(), &format!("limits.{name}"), why));
            };
            let amount = amount(limit.unit, limit.name == name, value.get_ref())
                .map_err(|why| self.refusal(&value.span(), &format!("limits.{name}"), why))?;
            let ruled = Ruled {
                value: amount,
                rule: self.rule(&value.span()),
            };
            if limits.insert(limit.name, ruled).is_some() {
                let why = format!("is there as {} too: keep one of the two", limit.name);
                return Err(self.refusal(&key.span(), &format!("limits.{name}"), why));
            }
        }
        Ok(limits)
    }

    fn network(&self, network: Network, beside: &Path) -> Result<NetworkPolicy, String> {
        let ranges = network.allow_ranges.into_iter().map(|range| {
            let parsed = range.get_ref().parse();
            parsed.map_err(|why| self.refusal(&range.span(), "network.allow_ranges", why))
        });
        let allow_ranges = ranges.collect::<Result<_, _>>()?;
        let roots = network.extra_roots.into_iter().map(|path| {
            read_roots(&beside.join(path.get_ref()))
                .map_err(|why| self.refusal(&path.span(), "network.extra_roots", why))
        });
        Ok(NetworkPolicy {
            allow_ranges,
            extra_roots: roots.collect::<Result<_, _>>()?,
        })
    }

    fn retention(&self, table: RetentionTable) -> Result<Retention, String> {
        let RetentionTable {
            releases,
            age,
            bytes,
            projects,
        } = table;
        let row = RetentionRow {
            releases,
            age,
            bytes,
        };
        let defaults = self.retention_row(&row, RetentionRules::default())?;
        let mut of_projects = BTreeMap::new();
        for (name, row) in projects {
            let project: ProjectName =
                name.get_ref()
                    .parse()
                    .map_err(|why: crate::name::NameError| {
                        self.refusal(&name.span(), "retention.projects", why)
                    })?;
            of_projects.insert(project, self.retention_row(&row, defaults)?);
        }
        Ok(Retention {
            defaults,
            projects: of_projects,
        })
    }

    fn retention_row(
        &self,
        row: &RetentionRow,
        defaults: RetentionRules,
    ) -> Result<RetentionRules, String> {
        let releases = match &row.releases {
            None => defaults.releases,
            Some(count) => u32::try_from(*count.get_ref())
                .ok()
                .filter(|count| *count > 0)
                .ok_or_else(|| {
                    let why = format!("is {}; at least one release is kept", count.get_ref());
                    self.refusal(&count.span(), "retention.releases", why)
                })?,
        };
        Ok(RetentionRules {
            releases,
            age_ms: row.age.map(|Milliseconds(age)| age).or(defaults.age_ms),
            bytes: row.bytes.map(|Size(bytes)| bytes).or(defaults.bytes),
        })
    }

    fn signatures(&self, signatures: Signatures) -> Result<SignaturePolicy, String> {
        let mut keys = Vec::new();
        for key in signatures.keys {
            // One at a time, so that a refusal has its line.
            let one = SignaturePolicy {
                required: false,
                keys: vec![key.get_ref().clone()],
            };
            TrustedKeys::of(&one)
                .map_err(|why| self.refusal(&key.span(), "signatures.keys", why))?;
            keys.push(key.into_inner());
        }
        if let Some(required) = &signatures.required
            && *required.get_ref()
            && keys.is_empty()
        {
            let why = "no plugin could be admitted without a key; add one to signatures.keys";
            return Err(self.refusal(&required.span(), "signatures.required", why));
        }
        Ok(SignaturePolicy {
            required: signatures.required.is_some_and(Spanned::into_inner),
            keys,
        })
    }
}

/// A limit's value: an integer in its unit, or under the name without the unit a text with one.
fn amount(unit: Unit, unit_is_named: bool, value: &Value) -> Result<u64, String> {
    match (unit, value) {
        (Unit::Bytes, Value::String(text)) => text.parse().map(|Size(bytes)| bytes),
        (Unit::Milliseconds, Value::String(text)) => {
            text.parse().map(|Milliseconds(milliseconds)| milliseconds)
        }
        (_, Value::Integer(number)) if unit_is_named => {
            u64::try_from(*number).map_err(|_| format!("{number} is less than nothing"))
        }
        (Unit::Bytes, Value::Integer(_)) => {
            Err("has no unit; write it as a text like \"256MiB\"".to_owned())
        }
        (Unit::Milliseconds, Value::Integer(_)) => {
            Err("has no unit; write it as a text like \"60s\"".to_owned())
        }
        (_, other) => Err(format!("{other} is no number")),
    }
}

/// A file of certificates in PEM.
fn read_roots(path: &Path) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    let bytes = std::fs::metadata(path).map_err(failed)?.len();
    if bytes > LONGEST_ROOTS {
        return Err(format!(
            "{} is {bytes} bytes long, and {LONGEST_ROOTS} are read",
            path.display()
        ));
    }
    let text = std::fs::read_to_string(path).map_err(failed)?;
    if text.contains("-----BEGIN CERTIFICATE-----") {
        Ok(text)
    } else {
        Err(format!("{} holds no certificate in PEM", path.display()))
    }
}
