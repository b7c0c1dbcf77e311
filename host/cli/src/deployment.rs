//! One deployment as a client sees it: admit plugins, send the package, follow it to its end.

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cofferdam_deploy::{Head, NameError, Policy, ProjectName};
use reqwest::Response;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use crate::api::Api;
use crate::api::follow::Follow;
use crate::api::upload::{Answer, Sent};
use crate::args::PackageArgs;
use crate::cmd::plugin::words;
use crate::delivery::{Delivery, FIRST_WAIT, LONGEST_WAIT, Limits, Order, Recall, Way};
use crate::exit::Failure;
use crate::fetch::{self, Fetched};
use crate::manifest::Manifest;
use crate::package::Source;
use crate::plugin::{PluginFile, PluginName};
use crate::project::Project;
use crate::signal::Interrupt;
use crate::ui::{Outcome, Ui};

/// How often what moves on the screen is moved.
const TICK: Duration = Duration::from_millis(100);

/// How long after ctrl-c the server may take to say that the package is durable.
const DETACH: Duration = Duration::from_secs(5);

/// A package that is sent as often as it takes.
struct Sending<'a> {
    delivery: Delivery<'a>,
    way: Way,
    attempts: Attempts,
}

impl Sending<'_> {
    /// Sends the package until it is answered.
    async fn send(&mut self, attend: &mut Attend<'_>, wanted: Answer) -> Result<Response, Failure> {
        let sent = Arc::clone(&attend.sent);
        loop {
            let request = Box::pin(self.delivery.send(self.way, wanted));
            match attend.during(request).await? {
                Ok(answer) => return Ok(answer),
                Err(failure) => {
                    let again = self.attempts.again(&failure, &self.delivery, &sent);
                    let (why, way) = again.ok_or(failure)?;
                    attend.again(&why, &mut self.attempts).await?;
                    self.way = way;
                }
            }
        }
    }

    /// Remembers what was sent, if the server has it: that is in the record.
    fn remember(&self, record: &Value) {
        let package = record.pointer("/package/blake3");
        if let Some(package) = package.and_then(Value::as_str) {
            self.delivery.remember(package);
        }
    }

    /// Whether sending it once more may end in something better than this; if so, the wait before it is over.
    async fn is_worth_repeating(
        &mut self,
        attend: &mut Attend<'_>,
        outcome: &Outcome,
    ) -> Result<bool, Failure> {
        let Some((why, way)) = self.attempts.once_more(outcome, &attend.sent) else {
            return Ok(false);
        };
        attend.again(&why, &mut self.attempts).await?;
        self.way = way;
        Ok(true)
    }
}

/// How often a package is sent again as a new deployment when it did not get through: after a broken connection, to an
/// upload that is resumed by itself.
const ATTEMPTS: usize = 3;

/// Between two questions after that.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// The header that carries a plugin's signature.
const COFFERDAM_SIGNATURE: HeaderName = HeaderName::from_static("cofferdam-signature");

/// Everything that the command line and the manifest say about a deployment.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) project: Project,
    source: Source,
    head: Value,
    compress: bool,
    recall: Recall,
    limits: Limits,
    /// What the request is called, when it may be sent again.
    key: Option<String>,
    plugins: Vec<PluginFile>,
    /// The manifest's own local plugins.
    pub(crate) listed: Vec<PluginFile>,
}

impl Job {
    /// Reads the arguments, and the manifest that they name or the package has.
    ///
    /// # Errors
    ///
    /// [`Failure::Usage`] and [`Failure::Refused`], before anything is sent or started.
    pub(crate) fn new(arguments: &PackageArgs) -> Result<Job, Failure> {
        let source = Source::parse(&arguments.package)?;
        let manifest = match (&arguments.config, &source) {
            (Some(path), _) => Manifest::read(path)?,
            (None, Source::Directory(root)) => Manifest::of(root)?,
            (None, Source::Archive(_) | Source::Stdin) => Manifest::default(),
        };
        if arguments.compress && !matches!(source, Source::Directory(_)) {
            return Err(Failure::Usage(
                "--compress is for directories: an archive is sent as it is".to_owned(),
            ));
        }
        let head = manifest.head(arguments.message.as_deref());
        let project = arguments
            .project
            .clone()
            .or(manifest.project)
            .or_else(|| Project::suggested_by(&source.name()?))
            .ok_or_else(|| {
                Failure::Usage("the project has no name yet: give one with --project".to_owned())
            })?;
        Ok(Job {
            project,
            source,
            head,
            compress: arguments.compress,
            recall: if arguments.reread {
                Recall::Renew
            } else {
                Recall::Trust
            },
            limits: arguments.limits(),
            key: None,
            plugins: arguments.plugins.clone(),
            listed: manifest.plugins,
        })
    }

    /// The same under an idempotency key.
    pub(crate) fn under(self, key: Option<String>) -> Job {
        Job { key, ..self }
    }

    /// The same for a server that will not be there again.
    pub(crate) fn only_once(self) -> Job {
        Job {
            recall: Recall::Never,
            ..self
        }
    }

    /// Takes the manifest's own plugins for admission too. Ones that the command line names go first and win.
    pub(crate) fn admit_listed(&mut self) {
        for plugin in std::mem::take(&mut self.listed) {
            if !self.plugins.iter().any(|named| named.name == plugin.name) {
                self.plugins.push(plugin);
            }
        }
    }

    /// Admits the local plugins.
    ///
    /// # Errors
    ///
    /// [`Failure::Usage`] for a file that cannot be read, or the server's answer.
    pub(crate) async fn admit(
        &self,
        api: &Api,
        ui: &mut Ui,
        interrupt: &Interrupt,
    ) -> Result<(), Failure> {
        let mut attend = Attend::new(ui, interrupt);
        for plugin in &self.plugins {
            let view = attend
                .during(admit_file(api, &plugin.name, &plugin.path))
                .await??;
            let digest = view.get("digest").and_then(Value::as_str);
            attend.ui.note(&format!(
                "admitted   {} {}\n           wants {}",
                plugin.name,
                digest.unwrap_or_default(),
                words(&view)
            ));
        }
        Ok(())
    }

    /// Asks the server what the package would get. A refused request is no error here: [`judged`] makes it one.
    ///
    /// # Errors
    ///
    /// The server's answer, when the head could not be deployed at all.
    pub(crate) async fn check(&self, api: &Api) -> Result<Value, Failure> {
        api.check(&self.project, &self.head).await
    }

    /// Holds the package against a policy at hand, in the same form.
    ///
    /// # Errors
    ///
    /// [`Failure::Refused`] when the head is not valid.
    pub(crate) fn check_against(&self, policy: &Policy) -> Result<Value, Failure> {
        let refused = |error: cofferdam_deploy::Error| Failure::Refused {
            code: Some(error.code().to_owned()),
            message: error.to_string(),
        };
        let head = Head::from_json(self.head.to_string().as_bytes()).map_err(refused)?;
        let project: ProjectName = self
            .project
            .as_str()
            .parse()
            .map_err(|error: NameError| Failure::Usage(error.to_string()))?;
        let check = policy.check(&project, &head).map_err(refused)?;
        serde_json::to_value(check).map_err(|error| Failure::Machine(error.into()))
    }

    /// Sends the package and leaves as soon as it is durable.
    ///
    /// # Errors
    ///
    /// As for [`Job::run`].
    pub(crate) async fn send(
        self,
        api: &Api,
        ui: &mut Ui,
        interrupt: &Interrupt,
    ) -> Result<Value, Failure> {
        let mut attend = Attend::new(ui, interrupt);
        let mut sending = self.sending(api, &mut attend).await?;
        let answer = sending.send(&mut attend, Answer::Record).await?;
        let record = attend.during(api.json(answer)).await??;
        sending.remember(&record);
        attend.tick();
        Ok(record)
    }

    /// Sends the package and follows the deployment to its end. How it ended is the outcome's, not an error.
    ///
    /// # Errors
    ///
    /// What kept the deployment from being sent or followed. With [`Failure::Interrupted`], the message says what
    /// becomes of it.
    pub(crate) async fn run(
        self,
        api: &Api,
        ui: &mut Ui,
        interrupt: &Interrupt,
    ) -> Result<Outcome, Failure> {
        let mut attend = Attend::new(ui, interrupt);
        let mut sending = self.sending(api, &mut attend).await?;
        loop {
            let answer = sending.send(&mut attend, Answer::Events).await?;
            let followed = follow(api, &mut attend, answer, interrupt).await;
            if let Some(failure) = attend.sent.take_failure() {
                return Err(failure);
            }
            let id = followed?;
            let outcome = Outcome::of(&id, api.record(&id).await?);
            if !sending.is_worth_repeating(&mut attend, &outcome).await? {
                sending.remember(&outcome.record);
                return Ok(outcome);
            }
        }
    }

    /// Makes everything ready to be sent, once the server has said that it would take it.
    async fn sending<'a>(
        &'a self,
        api: &'a Api,
        attend: &mut Attend<'_>,
    ) -> Result<Sending<'a>, Failure> {
        judged(&attend.during(self.check(api)).await??)?;
        let sent = Arc::clone(&attend.sent);
        let delivery = attend.during(self.delivery(api, &sent)).await??;
        let (files, bytes) = delivery.size();
        attend.ui.begin(self.project.as_str(), files, bytes);
        Ok(Sending {
            attempts: Attempts::new(delivery.is_repeatable()),
            way: Way::Best,
            delivery,
        })
    }

    async fn delivery<'a>(
        &'a self,
        api: &'a Api,
        sent: &Arc<Sent>,
    ) -> Result<Delivery<'a>, Failure> {
        let order = Order {
            project: &self.project,
            head: &self.head,
            key: self.key.as_deref(),
            source: &self.source,
            compress: self.compress,
            recall: self.recall,
            limits: self.limits,
        };
        Delivery::new(api, order, sent).await
    }
}

/// Follows the deployment that an answer is about to its end, and returns its id.
async fn follow(
    api: &Api,
    attend: &mut Attend<'_>,
    answer: Response,
    interrupt: &Interrupt,
) -> Result<String, Failure> {
    let sent = Arc::clone(&attend.sent);
    let mut follow = attend.during(Follow::answer(api, answer)).await??;
    loop {
        match attend.during(follow.next()).await {
            Ok(Ok(Some(events))) => {
                // The upload's end is said before what followed from it.
                attend.tick();
                events.iter().for_each(|event| attend.ui.event(event));
                attend.ui.flush();
            }
            Ok(Ok(None)) => return Ok(follow.id().unwrap_or_default().to_owned()),
            // The packer's own reason says more than the server's "upload interrupted".
            Ok(Err(failure)) => return Err(sent.take_failure().unwrap_or(failure)),
            Err(_) => return Err(left(api, follow.id(), &sent, interrupt).await),
        }
    }
}

/// How often a package is sent again when it did not get through.
struct Attempts {
    left: usize,
    wait: Duration,
}

impl Attempts {
    fn new(repeatable: bool) -> Attempts {
        Attempts {
            left: if repeatable { ATTEMPTS } else { 0 },
            wait: FIRST_WAIT,
        }
    }

    /// Why it is worth sending again after this failure, and how; nothing when it is not.
    fn again(
        &mut self,
        failure: &Failure,
        delivery: &Delivery<'_>,
        sent: &Sent,
    ) -> Option<(String, Way)> {
        let (worthwhile, way) = match failure {
            Failure::Unreachable(_) => (delivery.may_go_on(), Way::Resumed),
            Failure::Refused {
                code: Some(code), ..
            } => (is_mangled(code, sent), Way::Whole),
            _ => (false, Way::Whole),
        };
        let why = self.take(worthwhile, failure)?;
        Some((why, way))
    }

    /// Why it is worth sending again after this end, and how; nothing when it is not.
    fn once_more(&mut self, outcome: &Outcome, sent: &Sent) -> Option<(String, Way)> {
        let problem = outcome.problem.as_ref()?;
        let (on_the_way, way) = match problem.code.as_str() {
            "upload_interrupted" => (true, Way::Resumed),
            // What could not be read is among what is missing, the next time one asks.
            "chunks_missing" if self.left == ATTEMPTS => (true, Way::Best),
            "chunks_missing" => (true, Way::Whole),
            code => (is_mangled(code, sent), Way::Whole),
        };
        let why = self.take(on_the_way, &problem.message)?;
        Some((why, way))
    }

    fn take(&mut self, worthwhile: bool, why: impl std::fmt::Display) -> Option<String> {
        self.left = self.left.checked_sub(1).filter(|_| worthwhile)?;
        Some(why.to_string())
    }
}

/// Whether a list of chunks and frames may not have arrived as it was sent: a package that is not what its user promised
/// stays so, however it is sent.
fn is_mangled(code: &str, sent: &Sent) -> bool {
    matches!(code, "digest_mismatch" | "package_invalid") && sent.progress().spared > 0
}

/// The failure behind what a check found, in the words in which the server refuses a deployment.
///
/// # Errors
///
/// [`Failure::Refused`] with everything that is refused, when anything is.
pub(crate) fn judged(check: &Value) -> Result<(), Failure> {
    let text = |value: &Value, key: &str| {
        let text = value.get(key).and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    let list = |value: &Value, key: &str| {
        let list = value.get(key).and_then(Value::as_array);
        list.cloned().unwrap_or_default()
    };
    let mut refusals = Vec::new();
    let services = list(check, "services").into_iter().map(|service| {
        let name = format!("service {}", text(&service, "service"));
        (name, service)
    });
    let steps = list(check, "steps").into_iter();
    let steps = steps.map(|step| (text(&step, "step"), step));
    for (name, step) in steps.chain(services) {
        let refused: Vec<String> = list(&step, "findings")
            .iter()
            .filter(|finding| finding.get("granted").and_then(Value::as_bool) == Some(false))
            .map(|finding| {
                let part = |key| text(finding, key);
                format!(
                    "{} {}: {} ({})",
                    part("capability"),
                    part("asked"),
                    part("reason"),
                    part("rule")
                )
            })
            .collect();
        if !refused.is_empty() {
            let refused = refused.join("; ");
            refusals.push(format!("{name} asks for what it may not have: {refused}"));
        }
    }
    if refusals.is_empty() {
        return Ok(());
    }
    Err(Failure::Refused {
        code: Some("grant_denied".to_owned()),
        message: refusals.join("\n"),
    })
}

/// Admits what was fetched as the plugin `name`.
///
/// # Errors
///
/// The server's answer.
pub(crate) async fn admit(
    api: &Api,
    name: &PluginName,
    fetched: Fetched,
) -> Result<Value, Failure> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/wasm"));
    if let Some(signature) = fetched.signature {
        let value = HeaderValue::try_from(STANDARD.encode(signature));
        let value = value.map_err(|error| Failure::Machine(error.into()))?;
        headers.insert(COFFERDAM_SIGNATURE, value);
    }
    let route = format!("/v1/plugins/{}/{}", name.name, name.version);
    api.put(&route, headers, fetched.wasm).await
}

/// Admits the component in the file at `path`, with the signature that may lie beside it.
async fn admit_file(api: &Api, name: &PluginName, path: &Path) -> Result<Value, Failure> {
    let fetched = fetch::Source::File(path.to_owned())
        .fetch(None, None)
        .await?;
    admit(api, name, fetched).await
}

/// Keeps the screen moving and the signals heard while something is waited for.
struct Attend<'a> {
    ui: &'a mut Ui,
    interrupt: &'a Interrupt,
    sent: Arc<Sent>,
}

impl<'a> Attend<'a> {
    fn new(ui: &'a mut Ui, interrupt: &'a Interrupt) -> Attend<'a> {
        Attend {
            ui,
            interrupt,
            sent: Arc::new(Sent::default()),
        }
    }

    fn tick(&mut self) {
        self.ui.tick(&self.sent.progress());
    }

    /// Says that the package is sent again, and waits a while before.
    async fn again(&mut self, why: &str, attempts: &mut Attempts) -> Result<(), Failure> {
        self.ui.again(&format!("sending the package again: {why}"));
        let wait = attempts.wait;
        attempts.wait = (wait * 2).min(LONGEST_WAIT);
        self.during(tokio::time::sleep(wait)).await
    }

    /// Waits for `what`, or for the user to lose patience.
    async fn during<T>(&mut self, what: impl Future<Output = T>) -> Result<T, Failure> {
        let mut what = pin!(what);
        let mut clock = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                done = &mut what => return Ok(done),
                () = self.interrupt.raised(1) => {
                    return Err(Failure::Interrupted(
                        "interrupted before the server named the deployment".to_owned(),
                    ));
                }
                _ = clock.tick() => self.tick(),
            }
        }
    }
}

/// What becomes of a deployment whose client leaves. It goes on once its package is durable; a package that is
/// all sent may need a moment for that, and the connection has to stay until then.
async fn left(api: &Api, id: Option<&str>, sent: &Sent, interrupt: &Interrupt) -> Failure {
    let unfinished = |id: &str| {
        Failure::Interrupted(format!(
            "interrupted before the package was through: deployment {id} fails as upload_interrupted"
        ))
    };
    let Some(id) = id else {
        return Failure::Interrupted(
            "interrupted before the server named the deployment".to_owned(),
        );
    };
    if !sent.complete() {
        return unfinished(id);
    }
    let durable = async {
        loop {
            if let Ok(record) = api.record(id).await {
                let ended = record.get("finished_at").is_some_and(|at| !at.is_null());
                let hashed = record
                    .pointer("/package/blake3")
                    .is_some_and(|hash| !hash.is_null());
                if ended || hashed {
                    return;
                }
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    };
    tokio::select! {
        () = durable => Failure::Interrupted(format!(
            "detached: deployment {id} goes on; `cofferdam events {id}` follows it, `cofferdam cancel {id}` stops it"
        )),
        () = interrupt.raised(2) => unfinished(id),
        () = tokio::time::sleep(DETACH) => Failure::Interrupted(format!(
            "interrupted: the server has not confirmed the package of deployment {id}; `cofferdam show {id}` \
             tells what became of it"
        )),
    }
}
