# GitHub's delivery for a merged pull request (event pull_request, action closed), reduced to the fields that a receiver
# reads. Source: https://docs.github.com/webhooks/webhook-events-and-payloads#pull_request
($name | split("/")) as [$owner, $short]
| { login: $owner, id: 1, type: "User" } as $user
| { id: 1, name: $short, full_name: $name, private: false, owner: $user,
    html_url: "https://github.com/\($name)", clone_url: "https://github.com/\($name).git",
    ssh_url: "git@github.com:\($name).git", default_branch: "master" } as $repository
| { action: "closed",
    number: $number,
    pull_request: {
      url: "https://api.github.com/repos/\($name)/pulls/\($number)", id: $number, number: $number,
      html_url: "https://github.com/\($name)/pull/\($number)",
      state: "closed", title: $title, user: $user, body: null, draft: false,
      merged: true, merged_by: $user, merge_commit_sha: $merge,
      head: { label: "\($owner):\($branch)", ref: $branch, sha: $head, user: $user, repo: $repository },
      base: { label: "\($owner):develop", ref: "develop", sha: $base, user: $user, repo: $repository } },
    repository: $repository,
    sender: $user }
