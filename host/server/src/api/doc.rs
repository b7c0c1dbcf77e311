//! What the API's document says of a route. It stands beside the route in the table, and the schemas come
//! from the types that the handlers answer with.

use schemars::{JsonSchema, Schema, SchemaGenerator};

/// The most query and header parameters of a route.
const MAX_PARAMETERS: usize = 8;

/// The most kinds of success that a route has.
const MAX_ANSWERS: usize = 4;

/// Makes the schema of a type.
pub(super) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

fn schema_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// The documentation of a route.
#[derive(Clone, Copy)]
pub(super) struct Doc {
    /// One line about what it does.
    pub(super) summary: &'static str,
    /// Parameters beside those of the path.
    pub(super) parameters: [Option<Parameter>; MAX_PARAMETERS],
    /// The request's body, if it has one.
    pub(super) body: Option<Body>,
    /// How it succeeds. How it fails is a problem, for every route.
    pub(super) answers: [Option<Success>; MAX_ANSWERS],
}

/// A parameter in the query or in a header.
#[derive(Clone, Copy)]
pub(super) struct Parameter {
    /// `query` or `header`.
    pub(super) place: &'static str,
    pub(super) name: &'static str,
    pub(super) about: &'static str,
}

/// What a request's body is.
#[derive(Clone, Copy)]
pub(super) enum Body {
    /// JSON of this schema.
    Json(SchemaOf),
    /// Bytes of one of these media types.
    Bytes(&'static [&'static str]),
}

/// One way to succeed.
#[derive(Clone, Copy)]
pub(super) struct Success {
    pub(super) status: u16,
    pub(super) about: &'static str,
    pub(super) content: Content,
}

/// What an answer carries.
#[derive(Clone, Copy)]
pub(super) enum Content {
    /// Nothing.
    Empty,
    /// JSON of this schema.
    Json(SchemaOf),
    /// Bytes of this media type.
    Bytes(&'static str),
}

impl Doc {
    /// The documentation of a route that does this.
    pub(super) const fn of(summary: &'static str) -> Self {
        Self {
            summary,
            parameters: [None; MAX_PARAMETERS],
            body: None,
            answers: [None; MAX_ANSWERS],
        }
    }

    /// With a parameter of the query.
    pub(super) const fn query(self, name: &'static str, about: &'static str) -> Self {
        self.parameter("query", name, about)
    }

    /// With a header of the request.
    pub(super) const fn header(self, name: &'static str, about: &'static str) -> Self {
        self.parameter("header", name, about)
    }

    const fn parameter(
        mut self,
        place: &'static str,
        name: &'static str,
        about: &'static str,
    ) -> Self {
        let mut at = 0;
        while self.parameters[at].is_some() {
            at += 1;
        }
        self.parameters[at] = Some(Parameter { place, name, about });
        self
    }

    /// With a body of JSON.
    pub(super) const fn takes<T: JsonSchema>(mut self) -> Self {
        self.body = Some(Body::Json(schema_of::<T>));
        self
    }

    /// With a body of bytes.
    pub(super) const fn takes_bytes(mut self, media_types: &'static [&'static str]) -> Self {
        self.body = Some(Body::Bytes(media_types));
        self
    }

    /// Answering JSON.
    pub(super) const fn gives<T: JsonSchema>(self, status: u16, about: &'static str) -> Self {
        self.answer(status, about, Content::Json(schema_of::<T>))
    }

    /// Answering bytes.
    pub(super) const fn gives_bytes(
        self,
        status: u16,
        about: &'static str,
        media_type: &'static str,
    ) -> Self {
        self.answer(status, about, Content::Bytes(media_type))
    }

    /// Answering nothing.
    pub(super) const fn gives_nothing(self, status: u16, about: &'static str) -> Self {
        self.answer(status, about, Content::Empty)
    }

    const fn answer(mut self, status: u16, about: &'static str, content: Content) -> Self {
        let mut at = 0;
        while self.answers[at].is_some() {
            at += 1;
        }
        self.answers[at] = Some(Success {
            status,
            about,
            content,
        });
        self
    }
}
